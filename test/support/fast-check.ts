// fast-check, with a bound on time: a counterexample that could be made smaller for ever is told before the test file is ended for its age.
import fc from 'fast-check';

fc.configureGlobal({ interruptAfterTimeLimit: 60_000, markInterruptAsFailure: true });

export { default } from 'fast-check';
