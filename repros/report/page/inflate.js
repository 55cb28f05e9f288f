// Evidence blocks: base64 of zlib's format. Browsers inflate it themselves; `inflate` is for those that do not.

async function openBlock(text) {
  const bytes = Uint8Array.from(atob(text.trim()), (c) => c.charCodeAt(0));
  if (typeof DecompressionStream !== "function") return new TextDecoder().decode(inflate(bytes.subarray(2)));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).text();
}

// RFC 1951, raw: returns the inflated bytes.
function inflate(source) {
  let at = 0, held = 0, count = 0, size = 0, out = new Uint8Array(source.length * 8 + 1024);
  const bits = (n) => {
    while (count < n) { held |= source[at++] << count; count += 8; }
    const value = held & ((1 << n) - 1);
    held >>>= n; count -= n;
    return value;
  };
  const put = (byte) => {
    if (size === out.length) { const more = new Uint8Array(size * 2); more.set(out); out = more; }
    out[size++] = byte;
  };
  const table = (lengths) => {
    const counts = new Uint16Array(16), offsets = new Uint16Array(16), symbols = new Uint16Array(lengths.length);
    for (const length of lengths) counts[length]++;
    counts[0] = 0;
    for (let i = 1; i < 16; i++) offsets[i] = offsets[i - 1] + counts[i - 1];
    lengths.forEach((length, symbol) => { if (length) symbols[offsets[length]++] = symbol; });
    return { counts, symbols };
  };
  const decode = ({ counts, symbols }) => {
    let code = 0, first = 0, index = 0;
    for (let length = 1; length < 16; length++) {
      code |= bits(1);
      const here = counts[length];
      if (code - here < first) return symbols[index + code - first];
      index += here; first = (first + here) << 1; code <<= 1;
    }
    throw new Error("a block of evidence is damaged");
  };
  const lengthBase = [3,4,5,6,7,8,9,10,11,13,15,17,19,23,27,31,35,43,51,59,67,83,99,115,131,163,195,227,258];
  const lengthBits = [0,0,0,0,0,0,0,0,1,1,1,1,2,2,2,2,3,3,3,3,4,4,4,4,5,5,5,5,0];
  const distanceBase = [1,2,3,4,5,7,9,13,17,25,33,49,65,97,129,193,257,385,513,769,1025,1537,2049,3073,4097,6145,8193,12289,16385,24577];
  const distanceBits = [0,0,0,0,1,1,2,2,3,3,4,4,5,5,6,6,7,7,8,8,9,9,10,10,11,11,12,12,13,13];
  const order = [16,17,18,0,8,7,9,6,10,5,11,4,12,3,13,2,14,1,15];
  for (let last = 0; !last;) {
    last = bits(1);
    const kind = bits(2);
    if (kind === 0) {
      held = 0; count = 0;
      let length = source[at] | (source[at + 1] << 8);
      for (at += 4; length > 0; length--) put(source[at++]);
      continue;
    }
    let lengths = [], distances;
    if (kind === 1) {
      for (let i = 0; i < 288; i++) lengths.push(i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8);
      distances = Array(30).fill(5);
    } else {
      const literals = bits(5) + 257, others = bits(5) + 1, codes = bits(4) + 4, first = Array(19).fill(0);
      for (let i = 0; i < codes; i++) first[order[i]] = bits(3);
      const code = table(first);
      while (lengths.length < literals + others) {
        const symbol = decode(code);
        if (symbol < 16) { lengths.push(symbol); continue; }
        const value = symbol === 16 ? lengths[lengths.length - 1] : 0;
        let times = symbol === 16 ? 3 + bits(2) : symbol === 17 ? 3 + bits(3) : 11 + bits(7);
        while (times--) lengths.push(value);
      }
      distances = lengths.splice(literals);
    }
    const literal = table(lengths), distance = table(distances);
    for (let symbol; (symbol = decode(literal)) !== 256;) {
      if (symbol < 256) { put(symbol); continue; }
      let length = lengthBase[symbol - 257] + bits(lengthBits[symbol - 257]);
      const far = decode(distance), back = distanceBase[far] + bits(distanceBits[far]);
      while (length--) put(out[size - back]);
    }
  }
  return out.subarray(0, size);
}
