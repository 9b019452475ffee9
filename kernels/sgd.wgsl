// PyTorch's SGD: g = dw + decay · w; with MOMENTUM m = momentum · m + g, g = m; w -= lr · g; dw = 0.
// Does nothing at all where flag is not 0 (see finite-check.wgsl).
//
// Grid: one invocation per 4 elements (count is a multiple of 4), 64 a workgroup, workgroups folded into x and y.
// Workgroup memory: none.

override MOMENTUM: bool = false;

struct Sizes { count: u32, lr: f32, momentum: f32, decay: f32 }

@group(0) @binding(0) var<storage, read_write> w: array<vec4f>;  // (count)
@group(0) @binding(1) var<storage, read_write> m: array<vec4f>;  // (count), any 16 bytes without MOMENTUM
@group(0) @binding(2) var<storage, read_write> dw: array<vec4f>; // (count)
@group(0) @binding(3) var<storage, read> flag: array<u32>;     // (1)
@group(0) @binding(4) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.x + group.y * groups.x) * 64 + local;
  if (i * 4 >= sizes.count || flag[0] != 0) { return; }
  let before = w[i];
  var g = dw[i] + sizes.decay * before;
  if (MOMENTUM) {
    g += sizes.momentum * m[i];
    m[i] = g;
  }
  w[i] = before - sizes.lr * g;
  dw[i] = vec4f(0);
}
