// PyTorch's AdamW (Loshchilov & Hutter 2019, decoupled decay), with g = dw and t the number of this step:
//   m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g²,
//   w = keep w - rate m / (√v / correction + eps),  dw = 0
// keep = 1 - lr · decay, rate = lr / (1 - beta1ᵗ), correction = √(1 - beta2ᵗ), gain1 = 1 - beta1, gain2 = 1 - beta2.
// Does nothing at all where flag is not 0 (see finite-check.wgsl).
//
// Grid: one invocation per 4 elements (count is a multiple of 4), 64 a workgroup, workgroups folded into x and y.
// Workgroup memory: none.

struct Sizes { count: u32, beta1: f32, beta2: f32, gain1: f32, gain2: f32, eps: f32, keep: f32, rate: f32, correction: f32 }

@group(0) @binding(0) var<storage, read_write> w: array<vec4f>;  // (count)
@group(0) @binding(1) var<storage, read_write> m: array<vec4f>;  // (count)
@group(0) @binding(2) var<storage, read_write> v: array<vec4f>;  // (count)
@group(0) @binding(3) var<storage, read_write> dw: array<vec4f>; // (count)
@group(0) @binding(4) var<storage, read> flag: array<u32>;     // (1)
@group(0) @binding(5) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.x + group.y * groups.x) * 64 + local;
  if (i * 4 >= sizes.count || flag[0] != 0) { return; }
  let g = dw[i];
  let first = sizes.beta1 * m[i] + sizes.gain1 * g;
  let second = sizes.beta2 * v[i] + sizes.gain2 * g * g;
  m[i] = first;
  v[i] = second;
  w[i] = sizes.keep * w[i] - sizes.rate * (first / (sqrt(second) / sizes.correction + sizes.eps));
  dw[i] = vec4f(0);
}
