// Lines over steps. uPlot draws; this file gives it the page's size and colours, and a line of text to those who cannot see it.
import { useEffect, useRef } from 'preact/hooks';
import UPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';

const HEIGHT_PX = 220;

export interface Line {
  /** The name of a colour in the style sheet. */
  colour: string;
  width: number;
  steps: readonly number[];
  values: readonly number[];
}

interface LineChartProps {
  lines: readonly Line[];
  range: (min: number, max: number) => [number, number];
  /** A value on the axis. */
  show?: ((value: number) => string) | undefined;
  hasPoints?: boolean;
  label: string;
  testId: string;
}

export function LineChart({ lines, range, show, hasPoints = false, label, testId }: LineChartProps) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<UPlot | null>(null);
  const looks = lines.map(({ colour, width }) => `${colour} ${width}`).join();

  // A change of what is drawn needs another chart; more points of it do not.
  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const made = new UPlot(optionsFor(element, { lines, range, show, hasPoints }), dataOf(lines), element);
    plot.current = made;
    const resize = new ResizeObserver(() => made.setSize({ width: element.clientWidth, height: HEIGHT_PX }));
    resize.observe(element);
    const scheme = matchMedia('(prefers-color-scheme: dark)');
    const redraw = (): void => made.redraw();
    scheme.addEventListener('change', redraw);
    return () => {
      scheme.removeEventListener('change', redraw);
      resize.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [looks]);

  useEffect(
    () => {
      plot.current?.setData(dataOf(lines));
    },
    lines.flatMap(({ steps, values }) => [steps, values]),
  );

  const points = lines.reduce((sum, { steps }) => sum + steps.length, 0);
  return <div ref={box} role="img" aria-label={label} data-testid={testId} data-points={points} />;
}

/** One column of steps for all lines; a line has gaps where others have points. */
function dataOf(lines: readonly Line[]): UPlot.AlignedData {
  if (lines.length === 0) return [[]];
  return UPlot.join(lines.map(({ steps, values }): UPlot.AlignedData => [[...steps], [...values]]));
}

type Options = Pick<LineChartProps, 'lines' | 'range' | 'show' | 'hasPoints'>;

function optionsFor(element: HTMLElement, { lines, range, show, hasPoints }: Options): UPlot.Options {
  // Asked at every drawing, so that a change between light and dark needs no new chart.
  const colour = (name: string) => () => getComputedStyle(element).getPropertyValue(name);
  const axis = {
    stroke: colour('--muted'),
    grid: { stroke: colour('--line'), width: 1 },
    ticks: { show: false },
    font: '12px system-ui, sans-serif',
  };
  const series = lines.map(({ colour: name, width }): UPlot.Series => {
    const points = hasPoints ? { size: 5, stroke: colour(name), fill: colour(name) } : { show: false };
    return { stroke: colour(name), width, points, spanGaps: true };
  });
  return {
    width: element.clientWidth,
    height: HEIGHT_PX,
    legend: { show: false },
    cursor: { show: false },
    scales: { x: { time: false }, y: { range: (_, min, max) => range(min, max) } },
    axes: [
      { ...axis, size: 32, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 100_000] },
      { ...axis, size: 48, ...(show ? { values: (_, ticks) => ticks.map(show) } : {}) },
    ],
    series: [{}, ...series],
  };
}
