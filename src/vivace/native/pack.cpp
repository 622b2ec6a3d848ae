#include "pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace vivace {
namespace {

float from_bf16(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// Rounded to nearest, ties to even; what is not a number stays so.
std::uint16_t to_bf16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (value != value) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

float from_f16(std::uint16_t bits) {
  _Float16 half;
  std::memcpy(&half, &bits, sizeof half);
  return static_cast<float>(half);
}

std::uint16_t to_f16(float value) {
  const _Float16 half = static_cast<_Float16>(value);
  std::uint16_t bits;
  std::memcpy(&bits, &half, sizeof bits);
  return bits;
}

// Nearest integer, for magnitudes below 2^22: adding 1.5 * 2^23 drops the fraction.
float nearest(float value) { return (value + 12582912.0f) - 12582912.0f; }

void read_row(const Source& source, int row, int inputs, float* out) {
  const std::size_t first = static_cast<std::size_t>(row) * inputs;
  if (source.type == SourceType::f32) {
    std::memcpy(out, static_cast<const float*>(source.data) + first, inputs * sizeof(float));
    return;
  }
  const std::uint16_t* bits = static_cast<const std::uint16_t*>(source.data) + first;
  if (source.type == SourceType::bf16)
    for (int k = 0; k < inputs; k++) out[k] = from_bf16(bits[k]);
  else
    for (int k = 0; k < inputs; k++) out[k] = from_f16(bits[k]);
}

// Where output `index` of the packed matrix comes from; row is -1 for padding.
struct Origin {
  const Source* source;
  int row;
};

Origin find_origin(const std::vector<Source>& parts, Stacking stacking, int index) {
  if (stacking == Stacking::blocks) {
    const int count = static_cast<int>(parts.size()), block = index / lanes;
    const Source& part = parts[block % count];
    const int row = block / count * lanes + index % lanes;
    return {&part, row < part.rows ? row : -1};
  }
  for (const Source& part : parts) {
    if (index < part.rows) return {&part, index};
    index -= part.rows;
  }
  return {nullptr, -1};
}

int count_outputs(const std::vector<Source>& parts, Stacking stacking) {
  int outputs = 0;
  for (const Source& part : parts) outputs += stacking == Stacking::blocks ? round_up(part.rows, lanes) : part.rows;
  return outputs;
}

// Where the code of an input stands in a block, in bytes; for int4 the nibble is the high one if input % 8 >= 4.
std::size_t int8_place(int input, int lane) { return static_cast<std::size_t>(input / 4) * 64 + lane * 4 + input % 4; }
std::size_t int4_place(int input, int lane) { return static_cast<std::size_t>(input / 8) * 64 + lane * 4 + input % 4; }

void put_nibble(std::uint8_t* block, int input, int lane, int code) {
  block[int4_place(input, lane)] |= static_cast<std::uint8_t>(code << (input % 8 < 4 ? 0 : 4));
}

int get_nibble(const std::uint8_t* block, int input, int lane) {
  return block[int4_place(input, lane)] >> (input % 8 < 4 ? 0 : 4) & 15;
}

float pack_int8(const float* row, int inputs, int lane, std::uint8_t* block) {
  float largest = 0;
  for (int k = 0; k < inputs; k++) largest = std::max(largest, std::fabs(row[k]));
  const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
  for (int k = 0; k < inputs; k++)
    block[int8_place(k, lane)] = static_cast<std::uint8_t>(static_cast<int>(nearest(row[k] * inverse)) + 128);
  return largest / 127.0f;
}

double squared_error(const float* values, int size, float scale) {
  const float inverse = 1 / scale;
  float error = 0;
  for (int k = 0; k < size; k++) {
    const float code = std::min(std::max(nearest(values[k] * inverse), -8.0f), 7.0f);
    const float off = values[k] - code * scale;
    error += off * off;
  }
  return error;
}

// The scale (rounded to f16) whose sixteen levels -8..7 lose least in the square: the extreme value on -8 or on 7 and
// everything in between clipped a little, down to 0.6 of it.
float choose_scale(const float* values, int size) {
  float extreme = 0;
  for (int k = 0; k < size; k++)
    if (std::fabs(values[k]) > std::fabs(extreme)) extreme = values[k];
  if (extreme == 0) return 0;
  float best = 0;
  double least = INFINITY;
  for (const float level : {-8.0f, 7.0f})
    for (int percent = 100; percent >= 60; percent -= 5) {
      const float scale = from_f16(to_f16(extreme / level * static_cast<float>(percent) / 100));
      if (scale == 0 || !std::isfinite(scale)) continue;
      const double error = squared_error(values, size, scale);
      if (error < least) least = error, best = scale;
    }
  return best;
}

void pack_int4(const float* row, int inputs, int lane, int group_size, std::uint8_t* block, std::uint16_t* scales) {
  for (int first = 0, group = 0; first < inputs; first += group_size, group++) {
    const int size = std::min(group_size, inputs - first);
    const float scale = choose_scale(row + first, size), inverse = scale != 0 ? 1 / scale : 0;
    scales[group * lanes + lane] = to_f16(scale);
    for (int k = 0; k < size; k++) {
      const float code = std::min(std::max(nearest(row[first + k] * inverse), -8.0f), 7.0f);
      put_nibble(block, first + k, lane, static_cast<int>(code) + 8);
    }
  }
}

void pack_floats(PackedLinear& packed, const Source* source, int row, int index, float* scratch) {
  const int block = index / lanes, lane = index % lanes;
  unsigned char* bytes = packed.weights.as<unsigned char>() + block * packed.block_bytes();
  if (source)
    read_row(*source, row, packed.inputs, scratch);
  else
    std::fill_n(scratch, packed.inputs, 0.0f);
  if (packed.format == Format::f32) {
    for (int k = 0; k < packed.inputs; k++) reinterpret_cast<float*>(bytes)[k * lanes + lane] = scratch[k];
  } else if (packed.format == Format::bf16) {
    for (int k = 0; k < packed.inputs; k++) reinterpret_cast<std::uint16_t*>(bytes)[k * lanes + lane] = to_bf16(scratch[k]);
  } else if (packed.format == Format::int8) {
    packed.scales[index] = pack_int8(scratch, packed.inputs, lane, bytes);
  } else {
    std::uint16_t* scales = packed.group_scales.data() + static_cast<std::size_t>(block) * packed.groups() * lanes;
    pack_int4(scratch, packed.inputs, lane, packed.group_size, bytes, scales);
  }
}

void copy_int8(PackedLinear& packed, const Source& source, int row, int index) {
  std::uint8_t* block = packed.weights.as<std::uint8_t>() + index / lanes * packed.block_bytes();
  const std::int8_t* codes = static_cast<const std::int8_t*>(source.data) + static_cast<std::size_t>(row) * packed.inputs;
  packed.scales[index] = source.scales[row];
  for (int k = 0; k < packed.inputs; k++)
    block[int8_place(k, index % lanes)] = static_cast<std::uint8_t>(codes[k] + 128);
}

void copy_int4(PackedLinear& packed, const Source& source, int row, int index) {
  const int lane = index % lanes, groups = packed.groups();
  std::uint8_t* block = packed.weights.as<std::uint8_t>() + index / lanes * packed.block_bytes();
  const std::uint8_t* codes = static_cast<const std::uint8_t*>(source.data) + static_cast<std::size_t>(row) * (packed.inputs / 2);
  const std::size_t out = static_cast<std::size_t>(index / lanes) * groups * lanes + lane;
  const std::size_t in = static_cast<std::size_t>(row) * ((packed.inputs + source.group_size - 1) / source.group_size);
  for (int first = 0, group = 0; first < packed.inputs; first += source.group_size, group++) {
    packed.group_scales[out + group * lanes] = to_f16(source.scales[in + group]);
    if (!packed.group_zeros.empty()) packed.group_zeros[out + group * lanes] = source.zeros ? source.zeros[in + group] : 8;
    for (int k = first; k < std::min(first + source.group_size, packed.inputs); k++)
      put_nibble(block, k, lane, codes[k / 2] >> (k % 2 * 4) & 15);
  }
}

void check_parts(const std::vector<Source>& parts, int inputs, Stacking stacking, PackFormat format) {
  if (parts.empty() || inputs <= 0) throw std::invalid_argument("a linear needs at least one matrix and one input");
  if (!can_stack(parts)) throw std::invalid_argument("matrices of different kinds cannot stand in one linear");
  if (format.group_size % sum_group || format.group_size <= 0 || activation_group % format.group_size)
    throw std::invalid_argument("group_size must be 32, 64 or 128");
  for (const Source& part : parts) {
    if (part.rows <= 0) throw std::invalid_argument("a matrix of a linear has no rows");
    if (stacking == Stacking::blocks && part.rows != parts[0].rows)
      throw std::invalid_argument("matrices stacked by blocks must have equally many rows");
    if (part.type == SourceType::int4 && (part.group_size <= 0 || part.group_size % sum_group || activation_group % part.group_size || inputs % 2))
      throw std::invalid_argument("int4 sources need groups of 32, 64 or 128 inputs, and an even number of inputs");
  }
}

Format choose_format(PackFormat format, SourceType type) {
  if (type == SourceType::int8) return Format::int8;
  return type == SourceType::int4 ? Format::int4 : format.format;
}

PackedLinear allocate(PackFormat format, const std::vector<Source>& parts, int inputs, Stacking stacking) {
  PackedLinear packed;
  packed.format = choose_format(format, parts[0].type);
  packed.inputs = inputs;
  packed.padded_inputs = round_up(inputs, sum_group);
  packed.outputs = count_outputs(parts, stacking);
  const auto any = [&](auto holds) { return std::any_of(parts.begin(), parts.end(), holds); };
  const std::size_t padded_outputs = static_cast<std::size_t>(packed.blocks()) * lanes;
  if (packed.format == Format::int4) {
    packed.group_size = parts[0].type == SourceType::int4 ? parts[0].group_size : format.group_size;
    packed.group_scales = Array<std::uint16_t>(padded_outputs * packed.groups());
    if (any([](const Source& part) { return part.zeros != nullptr; }))
      packed.group_zeros = Array<std::uint8_t>(padded_outputs * packed.groups());
  }
  packed.weights = Memory(packed.block_bytes() * packed.blocks());
  if (packed.format == Format::int8) packed.scales = Array<float>(padded_outputs);
  if (any([](const Source& part) { return part.bias != nullptr; })) packed.bias = Array<float>(padded_outputs);
  return packed;
}

}  // namespace

std::size_t PackedLinear::block_bytes() const {
  const std::size_t codes = static_cast<std::size_t>(padded_inputs) * lanes;
  if (format == Format::f32) return codes * sizeof(float);
  if (format == Format::bf16) return codes * sizeof(std::uint16_t);
  return format == Format::int8 ? codes : codes / 2;
}

bool can_stack(const std::vector<Source>& parts) {
  return std::all_of(parts.begin(), parts.end(), [&](const Source& part) {
    const auto integer = [](const Source& source) { return source.type == SourceType::int8 || source.type == SourceType::int4; };
    return integer(part) || integer(parts[0]) ? part.type == parts[0].type && part.group_size == parts[0].group_size : true;
  });
}

PackedLinear pack(PackFormat format, const std::vector<Source>& parts, int inputs, Stacking stacking, ThreadTeam& team) {
  check_parts(parts, inputs, stacking, format);
  PackedLinear packed = allocate(format, parts, inputs, stacking);
  team.for_each(packed.blocks(), [&](int block, int) {
    std::vector<float> scratch(inputs);
    // A code that stands for nothing, where there is no input and no output.
    std::uint8_t* bytes = packed.weights.as<std::uint8_t>() + block * packed.block_bytes();
    if (packed.format == Format::int8) std::memset(bytes, 128, packed.block_bytes());
    for (int index = block * lanes; index < (block + 1) * lanes; index++) {
      const Origin origin = find_origin(parts, stacking, index);
      const bool real = origin.row >= 0;
      if (real && origin.source->bias) packed.bias[index] = origin.source->bias[origin.row];
      if (parts[0].type == SourceType::int8) {
        if (real) copy_int8(packed, *origin.source, origin.row, index);
      } else if (parts[0].type == SourceType::int4) {
        if (real) copy_int4(packed, *origin.source, origin.row, index);
      } else {
        pack_floats(packed, real ? origin.source : nullptr, origin.row, index, scratch.data());
      }
    }
  });
  return packed;
}

void unpack_row(const PackedLinear& linear, int row, float* out) {
  const unsigned char* bytes = linear.weights.as<unsigned char>() + row / lanes * linear.block_bytes();
  const int lane = row % lanes;
  if (linear.format == Format::f32) {
    for (int k = 0; k < linear.inputs; k++) out[k] = reinterpret_cast<const float*>(bytes)[k * lanes + lane];
  } else if (linear.format == Format::bf16) {
    for (int k = 0; k < linear.inputs; k++) out[k] = from_bf16(reinterpret_cast<const std::uint16_t*>(bytes)[k * lanes + lane]);
  } else if (linear.format == Format::int8) {
    for (int k = 0; k < linear.inputs; k++)
      out[k] = linear.scales[row] * static_cast<float>(bytes[int8_place(k, lane)] - 128);
  } else {
    const std::size_t first = static_cast<std::size_t>(row / lanes) * linear.groups() * lanes + lane;
    for (int k = 0; k < linear.inputs; k++) {
      const std::size_t at = first + static_cast<std::size_t>(k / linear.group_size) * lanes;
      const int zero = linear.group_zeros.empty() ? 8 : linear.group_zeros[at];
      out[k] = from_f16(linear.group_scales[at]) * static_cast<float>(get_nibble(bytes, k, lane) - zero);
    }
  }
}

}  // namespace vivace
