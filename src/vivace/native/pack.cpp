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

float from_f16(std::uint16_t bits) {
  _Float16 half;
  std::memcpy(&half, &bits, sizeof half);
  return static_cast<float>(half);
}

void read_row(const Source& source, int row, int inputs, float* out) {
  const std::size_t first = static_cast<std::size_t>(row) * inputs;
  if (source.type == SourceType::f32) {
    std::memcpy(out, static_cast<const float*>(source.data) + first, inputs * sizeof(float));
    return;
  }
  const std::uint16_t* bits = static_cast<const std::uint16_t*>(source.data) + first;
  const auto convert = source.type == SourceType::bf16 ? from_bf16 : from_f16;
  for (int k = 0; k < inputs; k++) out[k] = convert(bits[k]);
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

void pack_f32(const float* row, int inputs, int lane, float* block) {
  for (int k = 0; k < inputs; k++) block[static_cast<std::size_t>(k) * lanes + lane] = row[k];
}

// Returns the scale.
float pack_int8(const float* row, int inputs, int padded_inputs, int lane, std::uint8_t* block) {
  float largest = 0;
  for (int k = 0; k < inputs; k++) largest = std::max(largest, std::fabs(row[k]));
  const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
  for (int k = 0; k < padded_inputs; k++) {
    const int code = k < inputs ? static_cast<int>(std::nearbyint(row[k] * inverse)) : 0;
    block[static_cast<std::size_t>(k / 4) * 64 + lane * 4 + k % 4] = static_cast<std::uint8_t>(code + 128);
  }
  return largest / 127.0f;
}

void check_parts(const std::vector<Source>& parts, int inputs, Stacking stacking) {
  if (parts.empty() || inputs <= 0) throw std::invalid_argument("a linear needs at least one matrix and one input");
  for (const Source& part : parts) {
    if (part.rows <= 0) throw std::invalid_argument("a matrix of a linear has no rows");
    if (stacking == Stacking::blocks && part.rows != parts[0].rows)
      throw std::invalid_argument("matrices stacked by blocks must have equally many rows");
  }
}

}  // namespace

PackedLinear pack(Format format, const std::vector<Source>& parts, int inputs, Stacking stacking, ThreadTeam& team) {
  check_parts(parts, inputs, stacking);
  PackedLinear packed;
  packed.format = format;
  packed.inputs = inputs;
  packed.padded_inputs = round_up(inputs, sum_group);
  packed.outputs = count_outputs(parts, stacking);
  const int padded_outputs = packed.blocks() * lanes;
  packed.weights = Memory(packed.block_bytes() * packed.blocks());
  if (format == Format::int8) packed.scales = Array<float>(padded_outputs);
  if (std::any_of(parts.begin(), parts.end(), [](const Source& part) { return part.bias != nullptr; }))
    packed.bias = Array<float>(padded_outputs);

  team.for_each(packed.blocks(), [&](int block, int) {
    std::vector<float> row(inputs);
    unsigned char* bytes = packed.weights.as<unsigned char>() + block * packed.block_bytes();
    for (int lane = 0; lane < lanes; lane++) {
      const int index = block * lanes + lane;
      const Origin origin = find_origin(parts, stacking, index);
      if (origin.row >= 0) {
        read_row(*origin.source, origin.row, inputs, row.data());
        if (origin.source->bias) packed.bias[index] = origin.source->bias[origin.row];
      } else {
        std::fill(row.begin(), row.end(), 0.0f);
      }
      if (format == Format::f32) {
        pack_f32(row.data(), inputs, lane, reinterpret_cast<float*>(bytes));
      } else {
        packed.scales[index] = pack_int8(row.data(), inputs, packed.padded_inputs, lane, bytes);
      }
    }
  });
  return packed;
}

void unpack_row(const PackedLinear& linear, int row, float* out) {
  const unsigned char* bytes = linear.weights.as<unsigned char>() + row / lanes * linear.block_bytes();
  const int lane = row % lanes;
  if (linear.format == Format::f32) {
    const float* block = reinterpret_cast<const float*>(bytes);
    for (int k = 0; k < linear.inputs; k++) out[k] = block[static_cast<std::size_t>(k) * lanes + lane];
    return;
  }
  const float scale = linear.scales[row];
  for (int k = 0; k < linear.inputs; k++)
    out[k] = scale * static_cast<float>(bytes[static_cast<std::size_t>(k / 4) * 64 + lane * 4 + k % 4] - 128);
}

}  // namespace vivace
