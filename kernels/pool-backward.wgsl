// dx = Σ dy over the windows that each element of x was the largest of (MAX; of equal ones the first, row by row, as in PyTorch), or
// Σ dy / size² over those that it lay in; written, not added. Gathered: which was the largest is found again for every element.
//
// Grid: 64 invocations a workgroup, any number of workgroups along x; each goes through one stretch of dx, channels next to one
// another. Workgroup memory: none.

override MAX: bool = false;

struct Sizes {
  count: u32, C: u32,
  height: u32, width: u32, channel: u32, pixel: u32,
  size: u32, stride: u32,
  outHeight: u32, outWidth: u32, outChannel: u32, outPixel: u32,
}

@group(0) @binding(0) var<storage, read_write> dx: array<f32>; // (count), laid out as x
@group(0) @binding(1) var<storage, read> dy: array<f32>;       // (B, C, outHeight, outWidth) or (B, outHeight, outWidth, C)
@group(0) @binding(2) var<storage, read> x: array<f32>;        // (count): (B, C, height, width) or (B, height, width, C); any without MAX
@group(0) @binding(3) var<uniform> sizes: Sizes;

fn isNan(value: f32) -> bool {
  return (bitcast<u32>(value) & 0x7fffffff) > 0x7f800000;
}

// Where in x the largest of the window lies that begins at `start`.
fn largest(start: u32) -> u32 {
  var at = start;
  var value = x[start];
  for (var i = 0u; i < sizes.size; i++) {
    for (var j = 0u; j < sizes.size; j++) {
      let here = start + (i * sizes.width + j) * sizes.pixel;
      let other = x[here];
      if (!isNan(value) && (other > value || isNan(other))) {
        at = here;
        value = other;
      }
    }
  }
  return at;
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let pixels = sizes.height * sizes.width;
  let stretch = (sizes.count + groups.x * 64 - 1) / (groups.x * 64) * 64;
  let end = min((group.x + 1) * stretch, sizes.count);
  for (var id = group.x * stretch + local; id < end; id += 64) {
    let c = id % sizes.C;
    let place = id / sizes.C % pixels;
    let sample = id / (sizes.C * pixels);
    let start = sample * sizes.C * pixels + c * sizes.channel;
    let at = start + place * sizes.pixel;
    let first = sample * sizes.C * sizes.outHeight * sizes.outWidth + c * sizes.outChannel;
    let row = place / sizes.width;
    let col = place % sizes.width;
    // The windows that reach this row and this column.
    let firstY = select(0, (row - sizes.size) / sizes.stride + 1, row >= sizes.size);
    let firstX = select(0, (col - sizes.size) / sizes.stride + 1, col >= sizes.size);
    let endY = min(row / sizes.stride + 1, sizes.outHeight);
    let endX = min(col / sizes.stride + 1, sizes.outWidth);
    var sum = 0.0;
    for (var v = firstY; v < endY; v++) {
      for (var u = firstX; u < endX; u++) {
        if (MAX) {
          if (largest(start + (v * sizes.width + u) * sizes.stride * sizes.pixel) != at) { continue; }
        }
        sum += dy[first + (v * sizes.outWidth + u) * sizes.outPixel];
      }
    }
    if (!MAX) { sum /= f32(sizes.size * sizes.size); }
    dx[at] = sum;
  }
}
