// x = scale · q, of what block-quantise.wgsl made: signed integers of BITS (8 or 4), one scale for each block of 64.
//
// Grid: one invocation per block, 64 a workgroup, workgroups folded into x and y. Workgroup memory: none.

override BITS: u32 = 8;

// fours: 16, those of a block: see block-quantise.wgsl.
struct Sizes { blocks: u32, fours: u32 }

@group(0) @binding(0) var<storage, read_write> x: array<vec4f>; // (blocks, 16)
@group(0) @binding(1) var<storage, read> q: array<u32>;         // (blocks, 2 · BITS)
@group(0) @binding(2) var<storage, read> scale: array<f32>;     // (blocks)
@group(0) @binding(3) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) local: u32,
) {
  let block = (group.x + group.y * groups.x) * 64 + local;
  if (block >= sizes.blocks) { return; }
  let unit = scale[block];
  let fours = 8 / BITS;
  for (var i = 0u; i < sizes.fours; i++) {
    let word = bitcast<i32>(q[block * 2 * BITS + i / fours]);
    let first = (i % fours) * 4 * BITS;
    let values = vec4i(
      extractBits(word, first, BITS),
      extractBits(word, first + BITS, BITS),
      extractBits(word, first + 2 * BITS, BITS),
      extractBits(word, first + 3 * BITS, BITS),
    );
    x[block * sizes.fours + i] = unit * vec4f(values);
  }
}
