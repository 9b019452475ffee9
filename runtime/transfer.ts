// Which array buffers a value carries, for handing them to another thread without a copy.

/** Every array buffer inside tensors, maps, arrays and plain objects, once each. */
export function buffersOf(value: unknown): ArrayBuffer[] {
  const found = new Set<ArrayBuffer>();
  const visit = (item: unknown): void => {
    if (item instanceof Uint8Array) {
      if (item.buffer instanceof ArrayBuffer && item.buffer.byteLength > 0) found.add(item.buffer);
    } else if (item instanceof Map || Array.isArray(item)) {
      for (const inner of item.values()) visit(inner);
    } else if (typeof item === 'object' && item !== null) {
      for (const inner of Object.values(item)) visit(inner);
    }
  };
  visit(value);
  return [...found];
}
