// dx = dy · (Φ(x) + x φ(x)), φ(x) = exp(-x²/2) / √(2π); with TANH the derivative of GPT-2's form (see gelu.wgsl):
// dx = dy · (s + x s (1 - s) 2a'), s = 1 / (1 + exp(-2a)).
//
// Grid: 64 invocations a workgroup, any number of workgroups along x; each goes through one stretch of fours, because an
// invocation costs a software driver more than a four. Workgroup memory: none.

override TANH: bool = false;

struct Sizes { count: u32 }

@group(0) @binding(0) var<storage, read_write> dx: array<vec4f>; // (count), padded to fours
@group(0) @binding(1) var<storage, read> dy: array<vec4f>;       // (count), padded to fours
@group(0) @binding(2) var<storage, read> x: array<vec4f>;        // (count), padded to fours
@group(0) @binding(3) var<uniform> sizes: Sizes;

// As in gelu.wgsl.
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
    dx[i] = value;
  } else {
    dx[i] = select(dx[i], value, i * 4 + vec4u(0, 1, 2, 3) < vec4u(sizes.count));
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
    var slope: vec4f;
    if (TANH) {
      // Beyond ±10 the slope is 0 or 1 in f32, and exp would overflow.
      let u = clamp(v, vec4f(-10), vec4f(10));
      let s = 1 / (1 + exp(u * (-1.5957691216057308 - 0.07135481282952302 * u * u)));
      let inner = s + u * s * (1 - s) * (1.5957691216057308 + 0.21406443848856906 * u * u);
      slope = select(inner, vec4f(0), v < vec4f(-10));
    } else {
      let u = clamp(v, vec4f(-20), vec4f(20)); // the slope is 0 or 1 there, and the square stays finite
      slope = 0.5 * (1 + erf(u * 0.7071067811865476)) + u * 0.3989422804014327 * exp(-0.5 * u * u);
    }
    store(i, dy[i] * slope);
  }
}
