// wide[p · N + n, l, t] = w[n, l, t - p · stride], and 0 where there is none: a convolution's weights once for each of `across`
// neighbouring windows, which so share a row of taps and fill a product's columns. l goes through channels and rows; bias alike.
//
// Grid: 64 invocations a workgroup, one for each element of wide, folded into x and y. Workgroup memory: none.

struct Sizes { N: u32, lines: u32, size: u32, stride: u32, across: u32 }

@group(0) @binding(0) var<storage, read_write> wide: array<f32>;     // (across · N, lines, size + (across - 1) · stride)
@group(0) @binding(1) var<storage, read_write> wideBias: array<f32>; // (across · N)
@group(0) @binding(2) var<storage, read> w: array<f32>;              // (N, lines, size)
@group(0) @binding(3) var<storage, read> bias: array<f32>;           // (N)
@group(0) @binding(4) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let id = (group.x + group.y * groups.x) * 64 + local;
  let width = sizes.size + (sizes.across - 1) * sizes.stride;
  let row = id / (sizes.lines * width);
  if (row >= sizes.across * sizes.N) { return; }
  let n = row % sizes.N;
  let line = id / width % sizes.lines;
  let j = id % width - row / sizes.N * sizes.stride; // wraps round left of the window, and is no tap of it then either
  let isInside = j < sizes.size;
  wide[id] = select(0.0, w[select(0, (n * sizes.lines + line) * sizes.size + j, isInside)], isInside);
  if (id % (sizes.lines * width) == 0) { wideBias[row] = bias[n]; }
}
