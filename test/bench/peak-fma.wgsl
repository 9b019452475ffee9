// y[i] = what is left of `rounds` times 16 multiply-adds on each of 10 numbers that nobody else needs, in registers: the rate at
// which a device multiplies and adds. Ten: enough to fill a processor's pipes, and they fit its 16 registers beside m and a, which
// come from memory, so that no compiler knows them.
//
// Grid: any number of workgroups of 64 along x. Workgroup memory: none.

struct Sizes { rounds: u32 }

@group(0) @binding(0) var<storage, read_write> y: array<f32>; // (invocations)
@group(0) @binding(1) var<storage, read> x: array<f32>;       // (2): m and a
@group(0) @binding(2) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let m = vec4f(x[0]);
  let a = vec4f(x[1]);
  var p = vec4f(0, 1, 2, 3) + f32(id.x);
  var q = p + 4;
  var r = p.xy + 8;
  for (var i = 0u; i < sizes.rounds; i++) {
    p = fma(p, m, a); q = fma(q, m, a); r = fma(r, m.xy, a.xy);
    p = fma(p, m, a); q = fma(q, m, a); r = fma(r, m.xy, a.xy);
    p = fma(p, m, a); q = fma(q, m, a); r = fma(r, m.xy, a.xy);
    p = fma(p, m, a); q = fma(q, m, a); r = fma(r, m.xy, a.xy);
    p = fma(p, m, a); q = fma(q, m, a); r = fma(r, m.xy, a.xy);
    p = fma(p, m, a); q = fma(q, m, a); r = fma(r, m.xy, a.xy);
    p = fma(p, m, a); q = fma(q, m, a); r = fma(r, m.xy, a.xy);
    p = fma(p, m, a); q = fma(q, m, a); r = fma(r, m.xy, a.xy);
    p = fma(p, m, a); q = fma(q, m, a); r = fma(r, m.xy, a.xy);
    p = fma(p, m, a); q = fma(q, m, a); r = fma(r, m.xy, a.xy);
    p = fma(p, m, a); q = fma(q, m, a); r = fma(r, m.xy, a.xy);
    p = fma(p, m, a); q = fma(q, m, a); r = fma(r, m.xy, a.xy);
    p = fma(p, m, a); q = fma(q, m, a); r = fma(r, m.xy, a.xy);
    p = fma(p, m, a); q = fma(q, m, a); r = fma(r, m.xy, a.xy);
    p = fma(p, m, a); q = fma(q, m, a); r = fma(r, m.xy, a.xy);
    p = fma(p, m, a); q = fma(q, m, a); r = fma(r, m.xy, a.xy);
  }
  let sum = p + q;
  y[id.x] = sum.x + sum.y + sum.z + sum.w + r.x + r.y;
}
