// The self-centred merge of replicas (Eq. 1 of MPLS where nothing is clipped; ClippedGossip where it is), without losing what was
// trained meanwhile: shown' = keep · shown + Σ_p c_p · x_p, live' = live + (shown' - shown). shown is what was trained from and
// served, live what training goes on with; keep = 1 - Σ c. Of more than four parts the rest follows in further calls with keep = 1.
//
// Grid: one workgroup of 64 per item, a stretch of a unit, folded into x and y. Workgroup memory: none.

struct Sizes { items: u32 }

@group(0) @binding(0) var<storage, read_write> live: array<f32>;
@group(0) @binding(1) var<storage, read_write> shown: array<f32>;
@group(0) @binding(2) var<storage, read> x0: array<f32>;
@group(0) @binding(3) var<storage, read> x1: array<f32>;
@group(0) @binding(4) var<storage, read> x2: array<f32>;
@group(0) @binding(5) var<storage, read> x3: array<f32>;
// (items, 3): begin in live and shown, elements, bits of keep, unused; begins in x0 … x3; bits of c0 … c3, 0 for a part that is not there
@group(0) @binding(6) var<storage, read> items: array<vec4u>;
@group(0) @binding(7) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let number = group.x + group.y * groups.x;
  if (number >= sizes.items) { return; }
  let item = items[number * 3];
  let starts = items[number * 3 + 1];
  let c = bitcast<vec4f>(items[number * 3 + 2]);
  let keep = bitcast<f32>(item.z);
  for (var i = local * 4; i < item.y; i += 256) {
    // Beyond the end the last element is computed again, and stored once.
    let at = min(i + vec4u(0, 1, 2, 3), vec4u(item.y - 1));
    let w = item.x + at;
    let before = vec4f(shown[w.x], shown[w.y], shown[w.z], shown[w.w]);
    var after = keep * before;
    if (c.x != 0) { let p = starts.x + at; after += c.x * vec4f(x0[p.x], x0[p.y], x0[p.z], x0[p.w]); }
    if (c.y != 0) { let p = starts.y + at; after += c.y * vec4f(x1[p.x], x1[p.y], x1[p.z], x1[p.w]); }
    if (c.z != 0) { let p = starts.z + at; after += c.z * vec4f(x2[p.x], x2[p.y], x2[p.z], x2[p.w]); }
    if (c.w != 0) { let p = starts.w + at; after += c.w * vec4f(x3[p.x], x3[p.y], x3[p.z], x3[p.w]); }
    let moved = vec4f(live[w.x], live[w.y], live[w.z], live[w.w]) + (after - before);
    live[w.x] = moved.x;
    live[w.y] = moved.y;
    live[w.z] = moved.z;
    live[w.w] = moved.w;
    shown[w.x] = after.x;
    shown[w.y] = after.y;
    shown[w.z] = after.z;
    shown[w.w] = after.w;
  }
}
