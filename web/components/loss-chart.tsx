// The loss curve. uPlot draws; this file gives it the page's size and colours and nothing to read to those who cannot see it.
import { useEffect, useRef } from 'preact/hooks';
import UPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import { loss } from '../format.ts';
import type { RunView } from '../run-view.ts';

const HEIGHT_PX = 220;

export function LossChart({ view }: { view: RunView }) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<UPlot | null>(null);
  const { steps, losses } = view.curve;

  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const made = new UPlot(optionsFor(element), [[], []], element);
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
  }, []);

  useEffect(() => {
    plot.current?.setData([[...steps], [...losses]]);
  }, [steps, losses]);

  return (
    <figure class="chart">
      <figcaption>Loss by step</figcaption>
      <div
        ref={box}
        role="img"
        aria-label={`Loss ${loss(losses.at(-1) ?? null)} at step ${steps.at(-1) ?? 0}, from ${loss(losses[0] ?? null)}`}
        data-testid="loss-chart"
        data-points={steps.length}
      />
    </figure>
  );
}

function optionsFor(element: HTMLElement): UPlot.Options {
  // Asked at every drawing, so that a change between light and dark needs no new chart.
  const colour = (name: string) => () => getComputedStyle(element).getPropertyValue(name);
  const axis = {
    stroke: colour('--muted'),
    grid: { stroke: colour('--line'), width: 1 },
    ticks: { show: false },
    font: '12px system-ui, sans-serif',
  };
  return {
    width: element.clientWidth,
    height: HEIGHT_PX,
    legend: { show: false },
    cursor: { show: false },
    scales: {
      x: { time: false },
      y: { range: (_, min, max) => [Math.max(0, min - (max - min) * 0.1), max * 1.05 || 1] },
    },
    axes: [
      { ...axis, size: 32, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 100_000] },
      { ...axis, size: 48 },
    ],
    series: [{}, { stroke: colour('--accent'), width: 2, points: { show: false } }],
  };
}
