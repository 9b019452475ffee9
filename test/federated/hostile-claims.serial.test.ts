// Hostile workers that send what they sent before, what nobody asked for, or false counters and labels: see hostile-suite.ts.
import { suite } from './hostile-suite.ts';

suite(['stale', 'shape', 'counters', 'labels'], []);
