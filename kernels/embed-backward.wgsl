// dw[v - first] += Σ dy[i] over the rows i whose id is v, for v in [first, first + count). The plan lists the rows by id, so that
// the first entry of an id finds all its rows next to it and adds them up alone: no atomics, one order of summation.
//
// Grid: one workgroup of 64 per entry of the plan, folded into x and y. Workgroup memory: none.

struct Sizes { rows: u32, C: u32, first: u32, count: u32 }

@group(0) @binding(0) var<storage, read_write> dw: array<f32>; // (count, C)
@group(0) @binding(1) var<storage, read> plan: array<vec2i>;   // (rows): an id and a row, in ascending order
@group(0) @binding(2) var<storage, read> dy: array<f32>;       // (rows, C)
@group(0) @binding(3) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let start = group.x + group.y * groups.x;
  if (start >= sizes.rows) { return; }
  let id = plan[start].x;
  if (start > 0) { if (plan[start - 1].x == id) { return; } }
  let entry = u32(id) - sizes.first; // huge where the id is below first or negative
  if (entry >= sizes.count) { return; }
  for (var c = local; c < sizes.C; c += 64) {
    var sum = 0.0;
    for (var i = start; i < sizes.rows; i++) {
      let listed = plan[i];
      if (listed.x != id) { break; }
      sum += dy[u32(listed.y) * sizes.C + c];
    }
    dw[entry * sizes.C + c] += sum;
  }
}
