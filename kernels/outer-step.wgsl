// The outer step of low-communication training on slow weights φ, and what follows from it for the trained ones.
// DiLoCo (Douillard et al. 2023), g = mean of (φ - θ) over the replicas: m' = μ m + g, φ' = φ - rate (g + μ m'): Nesterov's momentum.
// With PAIR, NoLoCo (Kolehmainen et al. 2025): m' = μ m + rate · g + pull (φ - c), φ' = φ - m', c the mean of the pair's φ.
// In both live' = live + (φ' - shown), shown' = φ': training goes on from φ' with the steps that it took meanwhile.
//
// Grid: one workgroup of 64 per item, a stretch of a unit, folded into x and y. Workgroup memory: none.

override PAIR: bool = false;

struct Sizes { items: u32, rate: f32, momentum: f32, pull: f32 }

@group(0) @binding(0) var<storage, read_write> live: array<f32>;
@group(0) @binding(1) var<storage, read_write> shown: array<f32>;
@group(0) @binding(2) var<storage, read_write> slow: array<f32>;
@group(0) @binding(3) var<storage, read_write> m: array<f32>;
@group(0) @binding(4) var<storage, read> g: array<f32>;
@group(0) @binding(5) var<storage, read> c: array<f32>;       // any 4 bytes without PAIR
@group(0) @binding(6) var<storage, read> items: array<vec4u>; // (items): begin in the first four, begin in g and c, elements, unused
@group(0) @binding(7) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let number = group.x + group.y * groups.x;
  if (number >= sizes.items) { return; }
  let item = items[number];
  for (var i = local; i < item.z; i += 64) {
    let w = item.x + i;
    let gradient = g[item.y + i];
    let before = slow[w];
    var velocity = sizes.momentum * m[w];
    var step: f32;
    if (PAIR) {
      velocity += sizes.rate * gradient + sizes.pull * (before - c[item.y + i]);
      step = velocity;
    } else {
      velocity += gradient;
      step = sizes.rate * (gradient + sizes.momentum * velocity);
    }
    let after = before - step;
    m[w] = velocity;
    slow[w] = after;
    live[w] += after - shown[w];
    shown[w] = after;
  }
}
