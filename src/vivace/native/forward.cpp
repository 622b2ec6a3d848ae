// One pass of the model over a ragged batch: prompt chunks and single tokens, all in the same few loops.
#include "forward.h"

#include <cmath>

namespace vivace {

void Decoder::forward(const Pass& pass) {
  embed(pass);
  rotate_positions(pass);
  const std::vector<AttentionTile> tiles = plan_attention(pass);
  for (int layer = 0; layer < static_cast<int>(layers_.size()); layer++) {
    run_attention(pass, layer, tiles);
    run_mlp(pass, layer);
  }
}

void Decoder::embed(const Pass& pass) {
  const int size = shape_.hidden_size;
  for_rows(pass.rows(), [&](int row) {
    float* out = hidden_.data() + static_cast<std::size_t>(row) * size;
    unpack_row(embedding_, pass.tokens[row], out);
    if (shape_.embedding_scale != 1.0f)
      for (int i = 0; i < size; i++) out[i] *= shape_.embedding_scale;
    if (!positions_.empty()) {
      const float* position = positions_.data() + static_cast<std::size_t>(pass.positions[row]) * size;
      for (int i = 0; i < size; i++) out[i] += position[i];
    }
  });
}

// The angles of every token, once for all layers (RoFormer, Su et al. 2021).
void Decoder::rotate_positions(const Pass& pass) {
  const std::size_t rows = options_.max_batch_tokens;
  for_rows(pass.rows(), [&](int row) {
    for (std::size_t i = 0; i < shape_.ropes.size(); i++) {
      const Rope& rope = shape_.ropes[i];
      const std::size_t first = (i * rows + row) * rope_half_;
      for (std::size_t pair = 0; pair < rope.inverse_frequencies.size(); pair++) {
        const float angle = static_cast<float>(pass.positions[row]) * rope.inverse_frequencies[pair];
        cosines_[first + pair] = std::cos(angle) * rope.scale;
        sines_[first + pair] = std::sin(angle) * rope.scale;
      }
    }
  });
}

std::vector<Decoder::AttentionTile> Decoder::plan_attention(const Pass& pass) const {
  constexpr int rows_per_tile = 16;
  const bool crowded = static_cast<int>(pass.spans.size()) >= 8 * team_.size();  // enough to share out without cutting
  std::vector<AttentionTile> tiles;
  for (int span = 0; span < static_cast<int>(pass.spans.size()); span++) {
    const int rows = pass.spans[span].rows, heads = crowded && rows == 1 ? shape_.kv_heads : 1;
    for (int first = 0; first < rows; first += rows_per_tile)
      for (int head = 0; head < shape_.kv_heads; head += heads)
        tiles.push_back({span, head, heads, pass.spans[span].first_row + first, std::min(rows_per_tile, rows - first)});
  }
  return tiles;
}

void Decoder::normalize(const Norm& norm, const float* in, int size, float* out) const {
  if (shape_.norm == NormKind::rms)
    kernels_.rms_norm(in, norm.weight.data(), size, shape_.norm_eps, out);
  else
    kernels_.layer_norm(in, norm.weight.data(), norm.bias.empty() ? nullptr : norm.bias.data(), size, shape_.norm_eps, out);
}

void Decoder::run_kernel(const PackedLinear& linear, const Activations& in, const LinearTile& tile) const {
  kernel_for(kernels_, linear.format)(linear.view(), in, tile);
}

void Decoder::multiply_into(const PackedLinear& linear, const Activations& in, int rows, float* out,
                            std::ptrdiff_t stride, bool accumulate) {
  for_tiles(linear, rows, 1, [&](LinearTile tile, int) {
    tile.out = out + tile.first_row * stride + tile.first_block * lanes;
    tile.out_stride = stride;
    tile.accumulate = accumulate;
    run_kernel(linear, in, tile);
  });
}

void Decoder::add_to_residual(const Projection& projection, const float* values, std::ptrdiff_t stride, int rows,
                              const Norm& post_norm) {
  const int size = shape_.hidden_size;
  const auto keep = [](int) {};
  if (post_norm.weight.empty()) {
    project(projection, rows, values, stride, keep, hidden_.data(), size, true);
    return;
  }
  project(projection, rows, values, stride, keep, branch_.data(), size, false);
  for_rows(rows, [&](int row) {
    float* branch = branch_.data() + static_cast<std::size_t>(row) * size;
    float* residual = hidden_.data() + static_cast<std::size_t>(row) * size;
    normalize(post_norm, branch, size, branch);
    for (int i = 0; i < size; i++) residual[i] += branch[i];
  });
}

void Decoder::run_attention(const Pass& pass, int layer, const std::vector<AttentionTile>& tiles) {
  const LayerWeights& weights = layers_[layer];
  const int size = shape_.hidden_size, attended = shape_.heads * shape_.head_dim;
  const auto norm = [&](int row) {
    const std::size_t first = static_cast<std::size_t>(row) * size;
    normalize(weights.attention_norm, hidden_.data() + first, size, normed_.data() + first);
  };
  project(weights.query_key_value, pass.rows(), normed_.data(), size, norm, qkv_.data(), qkv_size_, false);
  // A row alone of its sequence sees no key or value that another row of this pass makes.
  const bool alone = pass.rows() == static_cast<int>(pass.spans.size());
  if (!alone) {
    std::vector<int> slot_of_row(pass.rows());
    for (const Span& span : pass.spans) std::fill_n(slot_of_row.begin() + span.first_row, span.rows, span.slot);
    for_rows(pass.rows(), [&](int row) { place_row(pass, layer, slot_of_row[row], row, 0, shape_.kv_heads); });
  }
  team_.for_each(static_cast<int>(tiles.size()), [&](int index, int thread) {
    const AttentionTile& tile = tiles[index];
    if (alone) place_row(pass, layer, pass.spans[tile.span].slot, tile.first_row, tile.first_head, tile.heads);
    attend(pass, layer, tile, thread);
  });
  add_to_residual(weights.attention_output, attended_.data(), attended, pass.rows(), weights.attention_post_norm);
}

void Decoder::rotate_head(float* head, int rope, int row) const {
  if (rope < 0) return;
  const int half = static_cast<int>(shape_.ropes[rope].inverse_frequencies.size());
  const std::size_t first = (static_cast<std::size_t>(rope) * options_.max_batch_tokens + row) * rope_half_;
  const float* cosines = cosines_.data() + first;
  const float* sines = sines_.data() + first;
  for (int i = 0; i < half; i++) {
    const float a = head[i], b = head[i + half];
    head[i] = a * cosines[i] - b * sines[i];
    head[i + half] = b * cosines[i] + a * sines[i];
  }
}

std::size_t Decoder::kv_offset(int layer, int kv_head) const {
  return static_cast<std::size_t>(layer) * options_.blocks * block_elements_ +
         static_cast<std::size_t>(kv_head) * block_tokens * (shape_.head_dim + padded_head_dim_);
}

template <class Element>
void Decoder::store_key_value(int layer, int slot, int position, int head, const float* key, const float* value) {
  const std::size_t block = slots_[slot].table[position / block_tokens];
  const int token = position % block_tokens;
  Element* key_out = cache_.as<Element>() + kv_offset(layer, head) + block * block_elements_;
  Element* value_out = key_out + block_tokens * shape_.head_dim + token * padded_head_dim_;
  if constexpr (sizeof(Element) == sizeof(float)) {
    for (int d = 0; d < shape_.head_dim; d++) key_out[d * block_tokens + token] = key[d];
    std::copy(value, value + shape_.head_dim, value_out);
  } else {
    kernels_.store_f16(key, shape_.head_dim, key_out + token, block_tokens);
    kernels_.store_f16(value, shape_.head_dim, value_out, 1);
  }
}

// Puts a row's queries and keys in place, of some heads, and its keys and values into the cache.
void Decoder::place_row(const Pass& pass, int layer, int slot, int row, int first_head, int heads) {
  const LayerWeights& weights = layers_[layer];
  const int dim = shape_.head_dim, rope = shape_.layers[layer].rope, group = shape_.heads / shape_.kv_heads;
  float* queries = qkv_.data() + static_cast<std::size_t>(row) * qkv_size_;
  float* keys = queries + shape_.heads * dim;
  const float* values = keys + shape_.kv_heads * dim;
  for (int head = first_head * group; head < (first_head + heads) * group; head++) {
    float* query = queries + head * dim;
    if (!weights.query_norm.weight.empty()) normalize(weights.query_norm, query, dim, query);
    rotate_head(query, rope, row);
    for (int d = 0; d < dim; d++) query[d] *= shape_.attention_scale;
  }
  for (int head = first_head; head < first_head + heads; head++) {
    float* key = keys + head * dim;
    if (!weights.key_norm.weight.empty()) normalize(weights.key_norm, key, dim, key);
    rotate_head(key, rope, row);
    if (f16_cache_)
      store_key_value<std::uint16_t>(layer, slot, pass.positions[row], head, key, values + head * dim);
    else
      store_key_value<float>(layer, slot, pass.positions[row], head, key, values + head * dim);
  }
}

void Decoder::attend(const Pass& pass, int layer, const AttentionTile& tile, int thread) {
  const int dim = shape_.head_dim, group = shape_.heads / shape_.kv_heads, window = shape_.layers[layer].window;
  const std::size_t element = f16_cache_ ? 2 : 4;
  AttentionTask task;
  task.block_stride = static_cast<std::ptrdiff_t>(block_elements_);
  task.table = slots_[pass.spans[tile.span].slot].table.data();
  task.head_dim = dim;
  task.padded_head_dim = padded_head_dim_;
  task.scores = scores_[thread].data();
  task.score_stride = round_up(shape_.context_length, block_tokens);
  for (int kv_head = tile.first_head; kv_head < tile.first_head + tile.heads; kv_head++) {
    const std::size_t keys = kv_offset(layer, kv_head) * element;
    task.keys = cache_.as<unsigned char>() + keys;
    task.values = cache_.as<unsigned char>() + keys + element * block_tokens * dim;
    task.queries = 0;
    for (int i = 0; i < tile.rows * group; i++) {
      const int row = tile.first_row + i / group, head = kv_head * group + i % group, q = task.queries++;
      task.query[q] = qkv_.data() + static_cast<std::size_t>(row) * qkv_size_ + head * dim;
      task.out[q] = attended_.data() + (static_cast<std::size_t>(row) * shape_.heads + head) * dim;
      task.last[q] = pass.positions[row];
      task.first[q] = window > 0 ? std::max(0, pass.positions[row] - window + 1) : 0;
      if (task.queries == max_queries || i == tile.rows * group - 1) {
        (f16_cache_ ? kernels_.attend_f16 : kernels_.attend_f32)(task);
        task.queries = 0;
      }
    }
  }
}

void Decoder::run_mlp(const Pass& pass, int layer) {
  const LayerWeights& weights = layers_[layer];
  const int size = shape_.hidden_size, inner = shape_.layers[layer].intermediate_size, rows = pass.rows();
  const std::ptrdiff_t inner_stride = round_up(inner, lanes);
  const auto norm = [&](int row) {
    const std::size_t first = static_cast<std::size_t>(row) * size;
    normalize(weights.mlp_norm, hidden_.data() + first, size, normed_.data() + first);
  };
  if (weights.mlp_in.fused) {
    // A gated tile holds 16 gates, 16 ups, 16 gates, ...: the product is taken while both are in cache.
    const PackedLinear& linear = weights.mlp_in.pieces[0].outer;
    const Activations in = prepare(linear, rows, normed_.data(), size, norm);
    const int step = weights.gated ? 2 : 1;
    for_tiles(linear, rows, step, [&](const LinearTile& tile, int) {
      run_kernel(linear, in, tile);
      const int first = tile.first_block / step * lanes, count = std::min(tile.blocks / step * lanes, inner - first);
      for (int row = 0; row < tile.rows; row++) {
        const float* gate = tile.out + row * tile.out_stride;
        kernels_.activate(shape_.activation, gate, weights.gated ? gate + lanes : nullptr, count, step * lanes,
                          inner_.data() + (tile.first_row + row) * inner_stride + first);
      }
    });
  } else {
    const std::ptrdiff_t stride = weights.mlp_in.outputs;
    project(weights.mlp_in, rows, normed_.data(), size, norm, gate_up_.data(), stride, false);
    for_rows(rows, [&](int row) {
      const float* gate = gate_up_.data() + row * stride;
      kernels_.activate(shape_.activation, gate, weights.gated ? gate + inner : nullptr, inner, lanes,
                        inner_.data() + row * inner_stride);
    });
  }
  add_to_residual(weights.mlp_out, inner_.data(), inner_stride, rows, weights.mlp_post_norm);
}

}  // namespace vivace
