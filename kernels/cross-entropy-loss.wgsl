// loss = log Σ exp(logits) - logits[target] and correct = 1 where the target is the first largest logit, from the stats that
// cross-entropy-stats.wgsl gathered over all windows. Target -100: loss 0, not correct.
//
// Grid: one invocation per row, 64 a workgroup, workgroups folded into x and y. Workgroup memory: none.

struct Sizes { M: u32 }

@group(0) @binding(0) var<storage, read_write> loss: array<f32>;    // (M)
@group(0) @binding(1) var<storage, read_write> correct: array<u32>; // (M)
@group(0) @binding(2) var<storage, read> stats: array<vec4f>;       // (M): largest, sum, target's logit, class
@group(0) @binding(3) var<storage, read> targets: array<i32>;       // (M)
@group(0) @binding(4) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let row = (group.x + group.y * groups.x) * 64 + local;
  if (row >= sizes.M) { return; }
  let known = stats[row];
  let isIgnored = targets[row] < 0;
  loss[row] = select(log(known.y) - (known.z - known.x), 0.0, isIgnored);
  correct[row] = select(0u, 1u, known.w == f32(targets[row]) && !isIgnored);
}
