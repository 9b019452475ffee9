// pool-backward.wgsl for windows that do not overlap, stride >= size: each is looked at once, and all of dx up to the next is written.
//
// Grid: 64 invocations a workgroup, any number of workgroups along x; each goes through one stretch of windows, channels next to
// one another, those beyond the last whole window included. Workgroup memory: none.

override MAX: bool = false;

struct Sizes {
  count: u32, // B · ⌈height / stride⌉ · ⌈width / stride⌉ · C
  C: u32,
  height: u32, width: u32, channel: u32, pixel: u32,
  size: u32, stride: u32,
  outHeight: u32, outWidth: u32, outChannel: u32, outPixel: u32,
}

@group(0) @binding(0) var<storage, read_write> dx: array<f32>; // laid out as x
@group(0) @binding(1) var<storage, read> dy: array<f32>;       // (B, C, outHeight, outWidth) or (B, outHeight, outWidth, C)
@group(0) @binding(2) var<storage, read> x: array<f32>;        // (B, C, height, width) or (B, height, width, C); any without MAX
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
  let across = (sizes.width + sizes.stride - 1) / sizes.stride;
  let windows = (sizes.height + sizes.stride - 1) / sizes.stride * across;
  let stretch = (sizes.count + groups.x * 64 - 1) / (groups.x * 64) * 64;
  let end = min((group.x + 1) * stretch, sizes.count);
  for (var id = group.x * stretch + local; id < end; id += 64) {
    let c = id % sizes.C;
    let v = id / sizes.C % windows / across;
    let u = id / sizes.C % across;
    let sample = id / (sizes.C * windows);
    let start = sample * sizes.C * sizes.height * sizes.width + c * sizes.channel
      + (v * sizes.width + u) * sizes.stride * sizes.pixel;
    var gradient = 0.0;
    var winner = start;
    if (v < sizes.outHeight && u < sizes.outWidth) {
      let first = sample * sizes.C * sizes.outHeight * sizes.outWidth + c * sizes.outChannel;
      gradient = dy[first + (v * sizes.outWidth + u) * sizes.outPixel];
      if (MAX) {
        winner = largest(start);
      } else {
        gradient /= f32(sizes.size * sizes.size);
      }
    }
    for (var i = 0u; i < min(sizes.stride, sizes.height - v * sizes.stride); i++) {
      for (var j = 0u; j < min(sizes.stride, sizes.width - u * sizes.stride); j++) {
        let at = start + (i * sizes.width + j) * sizes.pixel;
        let isMine = select(i < sizes.size && j < sizes.size, at == winner, MAX);
        dx[at] = select(0.0, gradient, isMine);
      }
    }
  }
}
