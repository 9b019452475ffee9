// y = the largest (MAX) or the mean of each window of x, size × size, without padding. What no whole window reaches counts for
// nothing. A NaN in a window is its largest, as in PyTorch. A window of 1 changes the layout alone.
// Images are (B, C, height, width) or (B, height, width, C): `channel` and `pixel` are the steps from one to the next.
//
// Grid: 64 invocations a workgroup, any number of workgroups along x; each goes through one stretch of y, channels next to one
// another. Workgroup memory: none.

override MAX: bool = false;

struct Sizes {
  count: u32, C: u32,
  height: u32, width: u32, channel: u32, pixel: u32,
  size: u32, stride: u32,
  outHeight: u32, outWidth: u32, outChannel: u32, outPixel: u32,
}

@group(0) @binding(0) var<storage, read_write> y: array<f32>; // (count): (B, C, outHeight, outWidth) or (B, outHeight, outWidth, C)
@group(0) @binding(1) var<storage, read> x: array<f32>;       // (B, C, height, width) or (B, height, width, C)
@group(0) @binding(2) var<uniform> sizes: Sizes;

fn isNan(value: f32) -> bool {
  return (bitcast<u32>(value) & 0x7fffffff) > 0x7f800000;
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let pixels = sizes.outHeight * sizes.outWidth;
  let stretch = (sizes.count + groups.x * 64 - 1) / (groups.x * 64) * 64;
  let end = min((group.x + 1) * stretch, sizes.count);
  for (var id = group.x * stretch + local; id < end; id += 64) {
    let c = id % sizes.C;
    let place = id / sizes.C % pixels;
    let sample = id / (sizes.C * pixels);
    let corner = place / sizes.outWidth * sizes.stride * sizes.width + place % sizes.outWidth * sizes.stride;
    let start = sample * sizes.C * sizes.height * sizes.width + c * sizes.channel + corner * sizes.pixel;
    var result = select(0.0, x[start], MAX);
    for (var i = 0u; i < sizes.size; i++) {
      for (var j = 0u; j < sizes.size; j++) {
        let value = x[start + (i * sizes.width + j) * sizes.pixel];
        if (!MAX) {
          result += value;
        } else if (!isNan(result) && (value > result || isNan(value))) {
          result = value;
        }
      }
    }
    if (!MAX) { result /= f32(sizes.size * sizes.size); }
    y[sample * sizes.C * pixels + c * sizes.outChannel + place * sizes.outPixel] = result;
  }
}
