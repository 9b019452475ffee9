// dx = dy · (Φ(x) + x φ(x)), φ(x) = exp(-x²/2) / √(2π); with TANH the derivative of GPT-2's form (see gelu.wgsl).
//
// Grid: one invocation per element, 64 a workgroup, workgroups folded into x and y. Workgroup memory: none.

override TANH: bool = false;

struct Sizes { count: u32 }

@group(0) @binding(0) var<storage, read_write> dx: array<f32>; // (count)
@group(0) @binding(1) var<storage, read> dy: array<f32>;       // (count)
@group(0) @binding(2) var<storage, read> x: array<f32>;        // (count)
@group(0) @binding(3) var<uniform> sizes: Sizes;

// As in gelu.wgsl.
fn erf(v: f32) -> f32 {
  let u = clamp(v, -4.0, 4.0);
  let s = u * u;
  var p = s * -2.72614225801306e-10 + 2.77068142495902e-08;
  p = s * p - 2.10102402082508e-06;
  p = s * p - 5.69250639462346e-05;
  p = s * p - 7.34990630326855e-04;
  p = s * p - 2.95459980854025e-03;
  p = s * p - 1.60960333262415e-02;
  var q = s * -1.45660718464996e-05 - 2.13374055278905e-04;
  q = s * q - 1.68282697438203e-03;
  q = s * q - 7.37332916720468e-03;
  q = s * q - 1.42647390514189e-02;
  return u * p / q;
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let i = (group.x + group.y * groups.x) * 64 + local;
  if (i >= sizes.count) { return; }
  // Beyond ±20 both forms have slope 0 or 1 in f32; the clamp keeps the squares from overflow.
  let u = clamp(x[i], -20.0, 20.0);
  var slope: f32;
  if (TANH) {
    let t = tanh(clamp(0.7978845608028654 * (u + 0.044715 * u * u * u), -10.0, 10.0));
    slope = 0.5 * (1.0 + t) + 0.5 * u * (1.0 - t * t) * 0.7978845608028654 * (1.0 + 0.134145 * u * u);
  } else {
    slope = 0.5 * (1.0 + erf(u * 0.7071067811865476)) + u * 0.3989422804014327 * exp(-0.5 * u * u);
  }
  dx[i] = dy[i] * slope;
}
