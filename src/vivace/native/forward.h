// Templates shared by decoder.cpp and forward.cpp: rows and logits shared out to the thread team.
#pragma once

#include <algorithm>

#include "decoder.h"

namespace vivace {

// Calls body(row) for each row; in the calling thread alone where there is too little to share.
template <class Body>
void Decoder::for_rows(int rows, Body&& body) {
  constexpr int worth_sharing = 4;
  if (rows < worth_sharing) {
    for (int row = 0; row < rows; row++) body(row);
    return;
  }
  const int per_tile = std::max(1, rows / (4 * team_.size()));
  team_.for_each((rows + per_tile - 1) / per_tile, [&](int tile, int) {
    const int end = std::min(rows, (tile + 1) * per_tile);
    for (int row = tile * per_tile; row < end; row++) body(row);
  });
}

// Calls produce(row) to write row `row` of `values`, and puts it in the form that `linear` wants.
template <class Produce>
Activations Decoder::prepare(const PackedLinear& linear, int rows, const float* values, std::ptrdiff_t stride,
                             Produce&& produce) {
  Activations out;
  out.values = values;
  out.value_stride = stride;
  out.codes = codes_.data();
  out.code_stride = width_;
  out.scales = code_scales_.data();
  out.scale_stride = width_ / activation_group + 1;
  out.sums = code_sums_.data();
  out.sum_stride = width_ / sum_group;
  out.outliers = outliers_.data();
  out.outlier_inputs = outlier_inputs_.data();
  out.outlier_values = outlier_values_.data();
  const bool quantized = linear.reads_codes();
  for_rows(rows, [&](int row) {
    produce(row);
    if (quantized) kernels_.quantize_row(values + row * stride, linear.inputs, linear.padded_inputs, row, out);
  });
  return out;
}

// Shares out linear x rows in tiles whose first block is a multiple of `block_multiple`, and calls
// body(tile, thread) for each; the tile's outputs go to the thread's scratch [rows][blocks * 16] unless body says else.
template <class Body>
void Decoder::for_tiles(const PackedLinear& linear, int rows, int block_multiple, Body&& body) {
  constexpr int register_blocks = 4, register_rows = 6;
  constexpr std::size_t tile_bytes = 32 << 10;  // enough work to be worth claiming, small enough to balance
  const int blocks = linear.blocks();
  const int wanted = rows > 1 ? register_blocks : static_cast<int>(tile_bytes / linear.block_bytes());
  const int per_tile = round_up(std::clamp(wanted, register_blocks, 64), std::max(register_blocks, block_multiple));
  const int block_tiles = (blocks + per_tile - 1) / per_tile;
  // Few blocks: rows are cut too, so that a thread that comes late finds tiles to leave to others.
  const int enough = (8 * team_.size() + block_tiles - 1) / block_tiles;
  const int row_tiles = std::max((rows + tile_rows_ - 1) / tile_rows_, std::min(enough, rows / (2 * register_rows)));
  const int rows_per_tile = round_up((rows + row_tiles - 1) / row_tiles, rows > register_rows ? register_rows : 1);
  team_.for_each(block_tiles * row_tiles, [&](int index, int thread) {
    LinearTile tile;
    tile.first_block = index / row_tiles * per_tile;
    tile.blocks = std::min(per_tile, blocks - tile.first_block);
    tile.first_row = index % row_tiles * rows_per_tile;
    tile.rows = std::min(rows_per_tile, rows - tile.first_row);
    tile.out = scratch_[thread].data();
    tile.out_stride = tile.blocks * lanes;
    tile.accumulate = false;
    if (tile.rows > 0) body(tile, thread);
  });
}

// out = projection of the rows that produce(row) writes to `values`, each once.
template <class Produce>
void Decoder::project(const Projection& projection, int rows, const float* values, std::ptrdiff_t stride,
                      Produce&& produce, float* out, std::ptrdiff_t out_stride, bool accumulate) {
  const auto keep = [](int) {};
  bool produced = false;
  for (const Projection::Piece& piece : projection.pieces) {
    const PackedLinear& first = piece.inner.empty() ? piece.outer : piece.inner;
    Activations in = produced ? prepare(first, rows, values, stride, keep) : prepare(first, rows, values, stride, produce);
    produced = true;
    if (!piece.inner.empty()) {
      const std::ptrdiff_t rank = piece.inner.outputs;
      multiply_into(piece.inner, in, rows, ranks_.data(), rank, false);
      in = prepare(piece.outer, rows, ranks_.data(), rank, keep);
    }
    multiply_into(piece.outer, in, rows, out + piece.first_output, out_stride, accumulate);
  }
}

template <class Use>
void Decoder::for_each_logits(const std::vector<int>& rows, Use&& use) {
  const int vocabulary = shape_.vocab_size, hidden = shape_.hidden_size;
  for (int first = 0; first < static_cast<int>(rows.size()); first += logit_rows_) {
    const int count = std::min(logit_rows_, static_cast<int>(rows.size()) - first);
    const auto norm = [&](int i) {
      normalize(final_norm_, hidden_.data() + static_cast<std::size_t>(rows[first + i]) * hidden, hidden,
                normed_.data() + static_cast<std::size_t>(i) * hidden);
    };
    if (head_.pieces.empty()) {
      const Activations in = prepare(embedding_, count, normed_.data(), hidden, norm);
      multiply_into(embedding_, in, count, logits_.data(), vocabulary, false);
    } else {
      project(head_, count, normed_.data(), hidden, norm, logits_.data(), vocabulary, false);
    }
    team_.for_each(count, [&](int i, int thread) {
      use(first + i, logits_.data() + static_cast<std::size_t>(i) * vocabulary, scratch_[thread].data());
    });
  }
}

}  // namespace vivace
