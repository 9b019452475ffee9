// y = x · Φ(x), Φ(x) = ½ (1 + erf(x / √2)); with TANH GPT-2's form y = ½ x (1 + tanh(√(2/π) (x + 0.044715 x³))).
// erf is Eigen's rational minimax approximation (degree 13 over 8 on |x| ≤ 4; within 4e-7 of the true value).
//
// Grid: one invocation per element, 64 a workgroup, workgroups folded into x and y. Workgroup memory: none.

override TANH: bool = false;

struct Sizes { count: u32 }

@group(0) @binding(0) var<storage, read_write> y: array<f32>; // (count)
@group(0) @binding(1) var<storage, read> x: array<f32>;       // (count)
@group(0) @binding(2) var<uniform> sizes: Sizes;

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
  let v = x[i];
  var t: f32;
  if (TANH) {
    // Beyond ±10 the tanh is ±1 in f32; the clamp keeps v³ and drivers' tanh away from overflow.
    let u = clamp(v, -10.0, 10.0);
    t = tanh(clamp(0.7978845608028654 * (u + 0.044715 * u * u * u), -10.0, 10.0));
  } else {
    t = erf(v * 0.7071067811865476);
  }
  y[i] = 0.5 * v * (1.0 + t);
}
