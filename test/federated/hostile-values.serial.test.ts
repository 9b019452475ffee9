// Hostile workers whose weights are false: see hostile-suite.ts.
import { suite } from './hostile-suite.ts';

suite(['nan', 'huge', 'flipped'], ['nan', 'huge', 'flipped']);
