// PyTorch's AdamW (Loshchilov & Hutter 2019, decoupled decay), with g = gradientScale · dw and t the number of this step:
//   m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g²,
//   w = keep w - rate m / (√v / correction + eps),  dw = 0
// keep = 1 - lr · decay, rate = lr / (1 - beta1ᵗ), correction = √(1 - beta2ᵗ), gain1 = 1 - beta1, gain2 = 1 - beta2.
// Does nothing at all where flag is not 0 (see finite-check.wgsl).
//
// Grid: 64 invocations a workgroup, any number of workgroups along x; each goes through one stretch of fours (count is a
// multiple of 4), because an invocation costs a software driver more than a four. Workgroup memory: none.

struct Sizes {
  count: u32, beta1: f32, beta2: f32, gain1: f32, gain2: f32, eps: f32, keep: f32, rate: f32, correction: f32,
  gradientScale: f32,
}

@group(0) @binding(0) var<storage, read_write> w: array<vec4f>;  // (count)
@group(0) @binding(1) var<storage, read_write> m: array<vec4f>;  // (count)
@group(0) @binding(2) var<storage, read_write> v: array<vec4f>;  // (count)
@group(0) @binding(3) var<storage, read_write> dw: array<vec4f>; // (count)
@group(0) @binding(4) var<storage, read> flag: array<u32>;       // (1)
@group(0) @binding(5) var<uniform> sizes: Sizes;

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
    let g = sizes.gradientScale * dw[i];
    let first = sizes.beta1 * m[i] + sizes.gain1 * g;
    let second = sizes.beta2 * v[i] + sizes.gain2 * g * g;
    m[i] = first;
    v[i] = second;
    w[i] = sizes.keep * w[i] - sizes.rate * (first / (sqrt(second) / sizes.correction + sizes.eps));
    dw[i] = vec4f(0);
  }
}
