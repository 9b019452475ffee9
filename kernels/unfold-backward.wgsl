// dx = Σ dcols over the windows and taps that saw each element of x; written, not added. Gathered, so that no two invocations
// write to one place, and added up in the order of the windows.
//
// Grid: 64 invocations a workgroup, one for an element of `count` of dx from sample `first` on, channels next to one another, folded
// into x and y. Workgroup memory: none.

struct Sizes {
  count: u32, first: u32, C: u32, K: u32,
  height: u32, width: u32, channel: u32, pixel: u32,
  sizeY: u32, sizeX: u32, strideY: u32, strideX: u32, padding: u32,
  outHeight: u32, outWidth: u32,
}

@group(0) @binding(0) var<storage, read_write> dx: array<f32>; // (B, C, height, width) or (B, height, width, C)
@group(0) @binding(1) var<storage, read> dcols: array<f32>;    // (samples · outHeight · outWidth, K), sample `first` first
@group(0) @binding(2) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let id = (group.x + group.y * groups.x) * 64 + local;
  if (id >= sizes.count) { return; }
  let c = id % sizes.C;
  let place = id / sizes.C % (sizes.height * sizes.width);
  let sample = id / (sizes.C * sizes.height * sizes.width);
  let row = place / sizes.width + sizes.padding; // counted from the edge of the padding
  let col = place % sizes.width + sizes.padding;
  // The windows that reach this row and this column.
  let firstY = select(0, (row - sizes.sizeY) / sizes.strideY + 1, row >= sizes.sizeY);
  let firstX = select(0, (col - sizes.sizeX) / sizes.strideX + 1, col >= sizes.sizeX);
  let endY = min(row / sizes.strideY + 1, sizes.outHeight);
  let endX = min(col / sizes.strideX + 1, sizes.outWidth);
  var sum = 0.0;
  for (var y = firstY; y < endY; y++) {
    let tap = (c * sizes.sizeY + row - y * sizes.strideY) * sizes.sizeX + col;
    let line = (sample * sizes.outHeight + y) * sizes.outWidth;
    for (var x = firstX; x < endX; x++) {
      sum += dcols[(line + x) * sizes.K + tap - x * sizes.strideX];
    }
  }
  let start = (sizes.first + sample) * sizes.C * sizes.height * sizes.width;
  dx[start + c * sizes.channel + place * sizes.pixel] = sum;
}
