// cols[m, k] = the k-th tap of the m-th window of x, and 0 where it lies in the padding: what a convolution multiplies with its
// weights. Windows go through samples, rows and columns; taps through channels, rows and columns, as weights (N, C, sizeY, sizeX) do.
// x is (B, C, height, width) or (B, height, width, C): `channel` and `pixel` are the steps from one to the next.
//
// Grid: 64 invocations a workgroup, one for runY × runX taps of a window, all of a channel or one, folded into x and y.
// Workgroup memory: none.

struct Sizes {
  M: u32, K: u32, runY: u32, runX: u32,
  first: u32, // the window of row 0
  height: u32, width: u32, channel: u32, pixel: u32, sample: u32,
  sizeY: u32, sizeX: u32, strideY: u32, strideX: u32, padding: u32,
  outHeight: u32, outWidth: u32,
}

@group(0) @binding(0) var<storage, read_write> cols: array<f32>; // (M, K)
@group(0) @binding(1) var<storage, read> x: array<f32>;          // (B, C, height, width) or (B, height, width, C)
@group(0) @binding(2) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let id = (group.x + group.y * groups.x) * 64 + local;
  let run = sizes.runY * sizes.runX;
  let runs = sizes.K / run;
  let m = id / runs;
  if (m >= sizes.M) { return; }
  let window = sizes.first + m;
  let pixels = sizes.outHeight * sizes.outWidth;
  let k = id % runs * run;
  let start = window / pixels * sizes.sample + k / (sizes.sizeY * sizes.sizeX) * sizes.channel;
  // Above and left of the image these wrap round, and then are no row and no column of it either.
  let top = window % pixels / sizes.outWidth * sizes.strideY - sizes.padding + k / sizes.sizeX % sizes.sizeY;
  let left = window % sizes.outWidth * sizes.strideX - sizes.padding + k % sizes.sizeX;
  var to = m * sizes.K + k;
  for (var row = top; row != top + sizes.runY; row++) {
    for (var col = left; col != left + sizes.runX; col++) {
      let isInside = row < sizes.height && col < sizes.width;
      cols[to] = select(0.0, x[select(0, start + (row * sizes.width + col) * sizes.pixel, isInside)], isInside);
      to++;
    }
  }
}
