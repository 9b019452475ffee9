// y = x · Φ(x), Φ(x) = ½ (1 + erf(x / √2)); with TANH GPT-2's form y = ½ x (1 + tanh(a)), a = √(2/π) (x + 0.044715 x³), which is
// x / (1 + exp(-2a)): one exp, and no cancellation in the tail.
// erf is Eigen's rational minimax approximation (degree 13 over 8 on |x| ≤ 4; within 4e-7 of the true value).
//
// Grid: 64 invocations a workgroup, any number of workgroups along x; each goes through one stretch of fours, because an
// invocation costs a software driver more than a four. Workgroup memory: none.

override TANH: bool = false;

struct Sizes { count: u32 }

@group(0) @binding(0) var<storage, read_write> y: array<vec4f>; // (count), padded to fours
@group(0) @binding(1) var<storage, read> x: array<vec4f>;       // (count), padded to fours
@group(0) @binding(2) var<uniform> sizes: Sizes;

fn erf(v: vec4f) -> vec4f {
  let u = clamp(v, vec4f(-4), vec4f(4));
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

// The last four may reach beyond count: what lies there stays.
fn store(i: u32, value: vec4f) {
  if (i * 4 + 4 <= sizes.count) {
    y[i] = value;
  } else {
    y[i] = select(y[i], value, i * 4 + vec4u(0, 1, 2, 3) < vec4u(sizes.count));
  }
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  // Each workgroup goes through one stretch, so that what is near in memory is near in time.
  let stretch = (sizes.count + groups.x * 256 - 1) / (groups.x * 256) * 64;
  let end = min((group.x + 1) * stretch, (sizes.count + 3) / 4);
  for (var i = group.x * stretch + local; i < end; i += 64) {
    let v = x[i];
    if (TANH) {
      // Beyond ±10 the form is 0 or x in f32, and exp would overflow.
      let u = clamp(v, vec4f(-10), vec4f(10));
      let s = 1 / (1 + exp(u * (-1.5957691216057308 - 0.07135481282952302 * u * u)));
      store(i, select(v * s, vec4f(0), v < vec4f(-10)));
    } else {
      store(i, 0.5 * v * (1 + erf(v * 0.7071067811865476)));
    }
  }
}
