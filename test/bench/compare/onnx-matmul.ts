// The bytes of an ONNX model that is one MatMul: y = a · b, all (size, size) f32. Protocol buffers by hand, for a model this small.
// Field numbers are those of onnx.proto3: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3

const VARINT = 0;
const BYTES = 2;
const FLOAT = 1; // TensorProto.FLOAT
const IR_VERSION = 8;
const OPSET = 17;

function varint(value: number): number[] {
  const bytes: number[] = [];
  for (let rest = value; ; rest >>>= 7) {
    if (rest < 0x80) return [...bytes, rest];
    bytes.push((rest & 0x7f) | 0x80);
  }
}

const integer = (field: number, value: number): number[] => [...varint((field << 3) | VARINT), ...varint(value)];
const bytes = (field: number, value: readonly number[]): number[] => [
  ...varint((field << 3) | BYTES),
  ...varint(value.length),
  ...value,
];
const message = (field: number, ...fields: number[][]): number[] => bytes(field, fields.flat());
const text = (field: number, value: string): number[] => bytes(field, [...new TextEncoder().encode(value)]);

export function onnxMatmul(size: number): Uint8Array<ArrayBuffer> {
  const dimension = message(1, integer(1, size)); // Shape.dim { dim_value }
  const tensor = message(1, integer(1, FLOAT), message(2, dimension, dimension)); // TypeProto.tensor_type { elem_type, shape }
  const value = (field: number, name: string): number[] => message(field, text(1, name), message(2, tensor)); // ValueInfoProto
  const node = message(1, text(1, 'a'), text(1, 'b'), text(2, 'y'), text(4, 'MatMul')); // input, input, output, op_type
  const graph = message(7, node, text(2, 'matmul'), value(11, 'a'), value(11, 'b'), value(12, 'y'));
  const opset = message(8, integer(2, OPSET)); // the default domain
  return new Uint8Array([...integer(1, IR_VERSION), ...graph, ...opset]);
}
