// PyTorch's SGD: g = gradientScale · dw + decay · w; with MOMENTUM m = momentum · m + g, g = m; w -= lr · g; dw = 0.
// Does nothing at all where flag is not 0 (see finite-check.wgsl).
//
// Grid: 64 invocations a workgroup, any number of workgroups along x; each goes through one stretch of fours (count is a
// multiple of 4), because an invocation costs a software driver more than a four. Workgroup memory: none.

override MOMENTUM: bool = false;

struct Sizes { count: u32, lr: f32, momentum: f32, decay: f32, gradientScale: f32 }

@group(0) @binding(0) var<storage, read_write> w: array<vec4f>;  // (count)
@group(0) @binding(1) var<storage, read_write> m: array<vec4f>;  // (count), any 16 bytes without MOMENTUM
@group(0) @binding(2) var<storage, read_write> dw: array<vec4f>; // (count)
@group(0) @binding(3) var<storage, read> flag: array<u32>;       // (1)
@group(0) @binding(4) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  if (flag[0] != 0) { return; }
  // Each workgroup goes through one stretch, so that what is near in memory is near in time.
  let stretch = (sizes.count + groups.x * 256 - 1) / (groups.x * 256) * 64;
  let end = min((group.x + 1) * stretch, (sizes.count + 3) / 4);
  for (var i = group.x * stretch + local; i < end; i += 64) {
    let before = w[i];
    var g = sizes.gradientScale * dw[i] + sizes.decay * before;
    if (MOMENTUM) {
      g += sizes.momentum * m[i];
      m[i] = g;
    }
    w[i] = before - sizes.lr * g;
    dw[i] = vec4f(0);
  }
}
