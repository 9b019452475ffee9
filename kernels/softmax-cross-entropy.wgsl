// loss[m] = log Σ_v exp(logits[m, v]) - logits[m, targets[m]], and the gradient of scale · Σ_m loss[m]:
// dlogits[m, v] = scale · (softmax(logits[m])[v] - [v = targets[m]]). Target -100: loss 0, gradient 0, not correct.
// correct[m] = 1 where the largest logit (the first of equals) is the target. The row's maximum is subtracted first.
//
// Grid: one invocation per row, 64 a workgroup, workgroups folded into x and y. Workgroup memory: none.

struct Sizes { M: u32, V: u32, scale: f32 }

@group(0) @binding(0) var<storage, read_write> dlogits: array<f32>; // (M, V)
@group(0) @binding(1) var<storage, read_write> loss: array<f32>;    // (M)
@group(0) @binding(2) var<storage, read_write> correct: array<u32>; // (M)
@group(0) @binding(3) var<storage, read> logits: array<f32>;        // (M, V)
@group(0) @binding(4) var<storage, read> targets: array<i32>;       // (M)
@group(0) @binding(5) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let row = (group.x + group.y * groups.x) * 64 + local;
  if (row >= sizes.M) { return; }
  let V = sizes.V;
  let at = row * V;

  var best = 0u;
  var largest = logits[at];
  for (var v = 1u; v < V; v++) {
    let value = logits[at + v];
    if (value > largest) {
      largest = value;
      best = v;
    }
  }
  var sum = 0.0;
  for (var v = 0u; v < V; v++) { sum += exp(logits[at + v] - largest); }

  let ignored = targets[row] < 0;
  let goal = u32(max(targets[row], 0));
  loss[row] = select(log(sum) - (logits[at + goal] - largest), 0.0, ignored);
  correct[row] = select(0u, 1u, best == goal && !ignored);
  let factor = select(sizes.scale, 0.0, ignored);
  for (var v = 0u; v < V; v++) {
    let p = exp(logits[at + v] - largest) / sum;
    dlogits[at + v] = factor * (p - select(0.0, 1.0, v == goal));
  }
}
