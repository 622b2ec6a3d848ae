// Loading, slots and steps. The arithmetic of one pass is in forward.cpp.
#include "decoder.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <stdexcept>

#include "cpu.h"
#include "forward.h"

namespace vivace {
namespace {

void require(bool holds, const std::string& message) {
  if (!holds) throw std::invalid_argument(message);
}

void check_shape(const ModelShape& shape, const DecoderOptions& options) {
  require(shape.vocab_size > 0 && shape.hidden_size > 0 && shape.heads > 0 && shape.kv_heads > 0 &&
              shape.head_dim > 0 && shape.context_length > 0 && !shape.layers.empty(),
          "every size of the model must be positive");
  require(shape.heads % shape.kv_heads == 0, "heads must be a multiple of kv_heads");
  require(options.threads > 0 && options.slots > 0 && options.blocks > 0 && options.max_batch_tokens > 0,
          "threads, slots, blocks and max_batch_tokens must be positive");
  for (const LayerShape& layer : shape.layers) {
    require(layer.intermediate_size > 0 && layer.window >= 0, "a layer's sizes must be positive");
    require(layer.rope >= -1 && layer.rope < static_cast<int>(shape.ropes.size()), "a layer names a rope there is not");
  }
  for (const Rope& rope : shape.ropes)
    require(2 * static_cast<int>(rope.inverse_frequencies.size()) <= shape.head_dim, "a rope is wider than a head");
}

int widest_intermediate(const ModelShape& shape) {
  int widest = 0;
  for (const LayerShape& layer : shape.layers) widest = std::max(widest, layer.intermediate_size);
  return round_up(widest, lanes);
}

}  // namespace

Decoder::Decoder(ModelShape shape, DecoderOptions options)
    : shape_((check_shape(shape, options), std::move(shape))),
      options_(std::move(options)),
      kernels_(select_kernels(options_.isa)),
      team_(options_.threads),
      layers_(shape_.layers.size()),
      slots_(options_.slots),
      f16_cache_(options_.format.format != Format::f32),
      padded_head_dim_(round_up(shape_.head_dim, lanes)),
      qkv_size_((shape_.heads + 2 * shape_.kv_heads) * shape_.head_dim) {
  const std::size_t rows = options_.max_batch_tokens;
  const int inner = widest_intermediate(shape_), attended = shape_.heads * shape_.head_dim;
  block_elements_ = static_cast<std::size_t>(shape_.kv_heads) * block_tokens * (shape_.head_dim + padded_head_dim_);
  cache_ = Memory(shape_.layers.size() * options_.blocks * block_elements_ * (f16_cache_ ? 2 : 4));
  width_ = round_up(std::max({shape_.hidden_size, inner, attended}), sum_group);

  hidden_ = Array<float>(rows * shape_.hidden_size);
  normed_ = Array<float>(rows * shape_.hidden_size);
  branch_ = Array<float>(rows * shape_.hidden_size);
  qkv_ = Array<float>(rows * qkv_size_);
  attended_ = Array<float>(rows * attended);
  inner_ = Array<float>(rows * inner);
  for (const Rope& rope : shape_.ropes)
    rope_half_ = std::max(rope_half_, static_cast<int>(rope.inverse_frequencies.size()));
  cosines_ = Array<float>(shape_.ropes.size() * rows * rope_half_);
  sines_ = Array<float>(shape_.ropes.size() * rows * rope_half_);
  codes_ = Array<std::int8_t>(rows * width_);
  code_scales_ = Array<float>(rows * (width_ / activation_group + 1));
  code_sums_ = Array<std::int32_t>(rows * (width_ / sum_group));
  outliers_ = Array<std::int32_t>(rows);
  outlier_inputs_ = Array<std::int32_t>(rows * max_outliers);
  outlier_values_ = Array<float>(rows * max_outliers);

  constexpr int logit_bytes = 16 << 20;
  logit_rows_ = std::clamp(logit_bytes / (4 * shape_.vocab_size), 8, 128);
  logits_ = Array<float>(static_cast<std::size_t>(logit_rows_) * shape_.vocab_size);
  tile_rows_ = 96;
  for (int thread = 0; thread < team_.size(); thread++) {
    scores_.emplace_back(static_cast<std::size_t>(max_queries) * round_up(shape_.context_length, block_tokens));
    scratch_.emplace_back(std::max<std::size_t>(shape_.vocab_size, static_cast<std::size_t>(tile_rows_) * 64 * lanes));
  }
}

LayerWeights& Decoder::layer(int index) {
  require(index >= 0 && index < static_cast<int>(layers_.size()), "no such layer");
  return layers_[index];
}

// Neighbours that can share a matrix do; factored ones stand alone.
Projection Decoder::pack_projection(PackFormat format, const std::vector<Part>& parts, int inputs, bool interleave) {
  Projection projection;
  projection.inputs = inputs;
  for (const Part& part : parts) projection.outputs += part.matrix.rows;
  std::vector<Source> run;
  int first_output = 0, run_outputs = 0;
  const auto finish_run = [&] {
    if (run.empty()) return;
    projection.fused = interleave && run.size() == parts.size();
    const Stacking stacking = projection.fused && run.size() > 1 ? Stacking::blocks : Stacking::rows;
    projection.pieces.push_back({{}, pack(format, run, inputs, stacking, team_), first_output});
    first_output += run_outputs;
    run.clear();
    run_outputs = 0;
  };
  for (const Part& part : parts) {
    run.push_back(part.matrix);
    if (part.factor.rows > 0 || !can_stack(run)) {
      run.pop_back();
      finish_run();
    }
    if (part.factor.rows == 0) {
      if (run.empty()) run.push_back(part.matrix);
      run_outputs += part.matrix.rows;
      continue;
    }
    PackedLinear inner = pack(format, {part.factor}, inputs, Stacking::rows, team_);
    PackedLinear outer = pack(format, {part.matrix}, part.factor.rows, Stacking::rows, team_);
    projection.pieces.push_back({std::move(inner), std::move(outer), first_output});
    first_output += part.matrix.rows;
  }
  finish_run();
  return projection;
}

void Decoder::set_linear(int index, const std::string& name, const std::vector<Part>& parts, int inputs) {
  LayerWeights& weights = layer(index);
  const int inner = shape_.layers[index].intermediate_size, attended = shape_.heads * shape_.head_dim;
  struct Expected {
    Projection* projection;
    int inputs, outputs;
  };
  const std::map<std::string, Expected> linears = {
      {"query_key_value", {&weights.query_key_value, shape_.hidden_size, qkv_size_}},
      {"attention_output", {&weights.attention_output, attended, shape_.hidden_size}},
      {"mlp_in", {&weights.mlp_in, shape_.hidden_size, inner * static_cast<int>(parts.size())}},
      {"mlp_out", {&weights.mlp_out, inner, shape_.hidden_size}}};
  const auto found = linears.find(name);
  require(found != linears.end(), "no linear is called " + name);
  const Expected& expected = found->second;
  int rows = 0, rank = 0;
  for (const Part& part : parts) rows += part.matrix.rows, rank = std::max(rank, part.factor.rows);
  require(inputs == expected.inputs && rows == expected.outputs && rank <= width_, name + " has the wrong shape");
  if (name == "mlp_in") {
    require(parts.size() <= 2, "mlp_in takes a gate and an up-projection, or one matrix");
    weights.gated = parts.size() == 2;
  }
  *expected.projection = pack_projection(options_.format, parts, inputs, name == "mlp_in");
  make_room_for_rank(rank);
  if (name == "mlp_in" && !weights.mlp_in.fused && gate_up_.empty())
    gate_up_ = Array<float>(static_cast<std::size_t>(options_.max_batch_tokens) * 2 * widest_intermediate(shape_));
}

void Decoder::make_room_for_rank(int rank) {
  const std::size_t size = static_cast<std::size_t>(options_.max_batch_tokens) * rank;
  if (ranks_.bytes() < size * sizeof(float)) ranks_ = Array<float>(size);
}

void Decoder::set_norm(int index, const std::string& name, std::vector<float> weight, std::vector<float> bias) {
  LayerWeights& weights = layer(index);
  const std::map<std::string, Norm*> norms = {{"attention_norm", &weights.attention_norm},
                                              {"mlp_norm", &weights.mlp_norm},
                                              {"query_norm", &weights.query_norm},
                                              {"key_norm", &weights.key_norm},
                                              {"attention_post_norm", &weights.attention_post_norm},
                                              {"mlp_post_norm", &weights.mlp_post_norm}};
  const auto found = norms.find(name);
  require(found != norms.end(), "no norm is called " + name);
  const bool of_head = name == "query_norm" || name == "key_norm";
  const std::size_t size = of_head ? shape_.head_dim : shape_.hidden_size;
  require(weight.size() == size && (bias.empty() || bias.size() == size), name + " has the wrong shape");
  *found->second = {std::move(weight), std::move(bias)};
}

void Decoder::set_final_norm(std::vector<float> weight, std::vector<float> bias) {
  require(static_cast<int>(weight.size()) == shape_.hidden_size && (bias.empty() || bias.size() == weight.size()),
          "final_norm has the wrong shape");
  final_norm_ = {std::move(weight), std::move(bias)};
}

void Decoder::set_embedding(const Source& table, int inputs) {
  require(table.rows == shape_.vocab_size && inputs == shape_.hidden_size, "the embedding has the wrong shape");
  embedding_ = pack(options_.table_format, {table}, inputs, Stacking::rows, team_);
}

void Decoder::set_positions(std::vector<float> table) {
  require(table.size() == static_cast<std::size_t>(shape_.context_length) * shape_.hidden_size,
          "the position table has the wrong shape");
  positions_ = std::move(table);
}

void Decoder::set_head(const Part& part, int inputs) {
  require(part.matrix.rows == shape_.vocab_size && inputs == shape_.hidden_size && part.factor.rows <= width_,
          "the head has the wrong shape");
  head_ = pack_projection(options_.table_format, {part}, inputs, false);
  make_room_for_rank(part.factor.rows);
}

void Decoder::check_complete() const {
  require(!embedding_.empty() && !final_norm_.weight.empty(), "the embedding or the final norm is missing");
  for (const LayerWeights& weights : layers_)
    require(weights.query_key_value.outputs && weights.attention_output.outputs && weights.mlp_in.outputs &&
                weights.mlp_out.outputs && !weights.attention_norm.weight.empty() && !weights.mlp_norm.weight.empty(),
            "a layer lacks a linear or a norm");
}

std::size_t Projection::bytes() const {
  std::size_t total = 0;
  for (const Piece& piece : pieces) total += piece.inner.bytes() + piece.outer.bytes();
  return total;
}

std::size_t Decoder::weight_bytes() const {
  std::size_t total = embedding_.bytes() + head_.bytes();
  for (const LayerWeights& weights : layers_)
    total += weights.query_key_value.bytes() + weights.attention_output.bytes() + weights.mlp_in.bytes() + weights.mlp_out.bytes();
  return total;
}

std::size_t Decoder::step_bytes() const {
  return weight_bytes() - (head_.pieces.empty() ? 0 : embedding_.bytes());
}

std::size_t Decoder::kv_bytes_per_token() const {
  return layers_.size() * block_elements_ / block_tokens * (f16_cache_ ? 2 : 4);
}

void Decoder::check(const StepInput& input) const {
  std::size_t tokens = 0, blocks = 0, targets = 0, history = 0, openings = 0, computed = 0;
  std::vector<bool> seen(slots_.size());
  for (const RowInput& row : input.rows) {
    require(row.slot >= 0 && row.slot < options_.slots, "a row names a slot there is not");
    require(!seen[row.slot], "two rows name one slot");
    seen[row.slot] = true;
    require(row.tokens >= 0 && row.blocks >= 0 && row.targets >= 0 && row.limit >= 1 && row.position >= 0,
            "a row's counts must not be negative");
    const int fed = std::max(row.tokens, 1), room = row.want == Want::sample ? row.limit - 1 : 0;
    const std::size_t known = row.opens ? 0 : slots_[row.slot].table.size();
    require(row.position + fed + room <= shape_.context_length, "a row runs past the context");
    require((known + row.blocks) * block_tokens >= static_cast<std::size_t>(row.position + fed + room),
            "a row's blocks do not hold its tokens");
    require(row.want != Want::score || row.targets == row.tokens, "a score row needs a target for each token");
    require(input.max_steps == 1 || row.want == Want::sample, "only rows that sample may burst");
    require(row.tokens > 0 || !row.opens, "a row that opens a slot needs tokens");
    const bool reads = row.opens && openings < input.samplings.size() && input.samplings[openings].reads_history();
    require(row.history == (reads ? row.position : 0), "a row that opens a slot which reads history needs all of it");
    tokens += row.tokens, blocks += row.blocks, targets += row.targets, history += row.history;
    openings += row.opens, computed += fed;
  }
  require(tokens == input.tokens.size() && blocks == input.blocks.size() && targets == input.targets.size() &&
              history == input.history.size() && openings == input.samplings.size(),
          "the rows' counts do not match what came with them");
  for (const auto& [row, mask] : input.masks)
    require(row >= 0 && row < static_cast<int>(input.rows.size()) && input.max_steps == 1 &&
                mask.size() * 8 >= static_cast<std::size_t>(shape_.vocab_size),
            "a mask needs a row, a bit for each token, and no burst");
  for (const Sampling& sampling : input.samplings) {
    for (const std::int32_t id : sampling.stop_token_ids)
      require(id >= 0 && id < shape_.vocab_size, "a stop token is outside the vocabulary");
    for (const auto& [id, bias] : sampling.logit_bias)
      require(id >= 0 && id < shape_.vocab_size, "a biased token is outside the vocabulary");
  }
  require(computed <= static_cast<std::size_t>(options_.max_batch_tokens), "more tokens than max_batch_tokens");
  for (const std::vector<std::int32_t>* ids : {&input.tokens, &input.targets, &input.history})
    for (const std::int32_t id : *ids) require(id >= 0 && id < shape_.vocab_size, "a token id is outside the vocabulary");
  for (const std::int32_t block : input.blocks) require(block >= 0 && block < options_.blocks, "no such block");
}

void Decoder::feed(Pass& pass, int slot, std::int32_t token, int position) {
  pass.tokens.push_back(token);
  pass.positions.push_back(position);
  if (!slots_[slot].sampling.reads_history()) return;
  slots_[slot].history.resize(position + 1);
  slots_[slot].history[position] = token;
}

Decoder::Pass Decoder::begin(const StepInput& input) {
  Pass pass;
  std::size_t token = 0, block = 0, opening = 0, history = 0;
  for (const RowInput& row : input.rows) {
    Slot& slot = slots_[row.slot];
    if (row.opens) slot = {{}, input.samplings[opening++], 0, {}};
    slot.history.insert(slot.history.end(), input.history.begin() + history, input.history.begin() + history + row.history);
    history += row.history;
    slot.table.insert(slot.table.end(), input.blocks.begin() + block, input.blocks.begin() + block + row.blocks);
    block += row.blocks;
    const int fed = std::max(row.tokens, 1);
    pass.spans.push_back({row.slot, pass.rows(), fed});
    for (int i = 0; i < fed; i++)
      feed(pass, row.slot, row.tokens == 0 ? slot.pending : input.tokens[token++], row.position + i);
  }
  return pass;
}

StepOutput Decoder::step(const StepInput& input) {
  check(input);
  interrupted_.store(false, std::memory_order_relaxed);
  const auto start = std::chrono::steady_clock::now();
  const Pass pass = begin(input);
  forward(pass);
  StepOutput output = collect_first(input, pass);
  output.steps = 1;
  const auto end = start + std::chrono::duration<double, std::milli>(input.burst_ms);
  while (output.steps < input.max_steps && !interrupted_.load(std::memory_order_relaxed) &&
         std::chrono::steady_clock::now() < end) {
    const int before = output.steps;
    burst(input, output);
    if (output.steps == before) break;
  }
  return output;
}

// The token after `position` of a slot's sequence.
std::int32_t Decoder::choose(int slot, int position, const char* mask, float* logits, float* scratch, Logprobs& logprobs) {
  const Slot& chosen = slots_[slot];
  Place place{position + 1, {}, reinterpret_cast<const std::uint8_t*>(mask)};
  if (chosen.sampling.reads_history()) place.history = {chosen.history.data(), static_cast<std::size_t>(position) + 1};
  return choose_token(kernels_, logits, shape_.vocab_size, chosen.sampling, place, scratch, logprobs);
}

// What the rows asked for, from the pass that computed their tokens.
StepOutput Decoder::collect_first(const StepInput& input, const Pass& pass) {
  struct Ask {
    int row, token_row, target;
  };
  StepOutput output;
  output.tokens.resize(input.rows.size());
  std::vector<Ask> asks;
  std::vector<int> token_rows;
  std::size_t target = 0;
  for (int i = 0; i < static_cast<int>(input.rows.size()); i++) {
    const RowInput& row = input.rows[i];
    const Span& span = pass.spans[i];
    if (row.want == Want::hidden) {
      std::vector<float>& hidden = output.hidden[i];
      hidden.resize(static_cast<std::size_t>(span.rows) * shape_.hidden_size);
      for (int r = 0; r < span.rows; r++)
        normalize(final_norm_, hidden_.data() + static_cast<std::size_t>(span.first_row + r) * shape_.hidden_size,
                  shape_.hidden_size, hidden.data() + static_cast<std::size_t>(r) * shape_.hidden_size);
    }
    const int first = row.want == Want::sample ? span.rows - 1 : 0;
    const bool asks_logits = row.want == Want::sample || row.want == Want::verify || row.want == Want::score;
    for (int r = first; asks_logits && r < span.rows; r++) {
      asks.push_back({i, span.first_row + r, row.want == Want::score ? input.targets[target++] : 0});
      token_rows.push_back(span.first_row + r);
    }
    if (row.want == Want::score) output.scores[i];
  }
  std::vector<std::int32_t> sampled(asks.size());
  std::vector<float> scores(asks.size());
  std::vector<Logprobs> logprobs(asks.size());
  for_each_logits(token_rows, [&](int i, float* logits, float* scratch) {
    const RowInput& row = input.rows[asks[i].row];
    const auto mask = input.masks.find(asks[i].row);
    if (row.want == Want::score)
      scores[i] = log_probability(kernels_, logits, shape_.vocab_size, asks[i].target, scratch);
    else
      sampled[i] = choose(row.slot, pass.positions[asks[i].token_row],
                          mask == input.masks.end() ? nullptr : mask->second.data(), logits, scratch, logprobs[i]);
  });
  for (std::size_t i = 0; i < asks.size(); i++) {
    const RowInput& row = input.rows[asks[i].row];
    std::vector<std::int32_t>& tokens = output.tokens[asks[i].row];
    if (row.want == Want::score) {
      output.scores[asks[i].row].push_back(scores[i]);
      continue;
    }
    // A verified row goes on only while what was proposed is what the model itself chose.
    const int offset = asks[i].token_row - pass.spans[asks[i].row].first_row;
    const bool holds = row.want == Want::sample || static_cast<int>(tokens.size()) == offset;
    if (!holds || (offset > 0 && row.want == Want::verify && tokens.back() != pass.tokens[asks[i].token_row])) continue;
    tokens.push_back(sampled[i]);
    slots_[row.slot].pending = sampled[i];
    if (slots_[row.slot].sampling.logprobs >= 0) output.logprobs[asks[i].row].push_back(std::move(logprobs[i]));
  }
  return output;
}

// One more pass for the rows that may go on.
void Decoder::burst(const StepInput& input, StepOutput& output) {
  Pass pass;
  std::vector<int> going, token_rows;
  for (int i = 0; i < static_cast<int>(input.rows.size()); i++) {
    const RowInput& row = input.rows[i];
    const int made = static_cast<int>(output.tokens[i].size());
    const Slot& slot = slots_[row.slot];
    if (made >= row.limit || slot.sampling.stops_at(slot.pending)) continue;
    going.push_back(i);
    token_rows.push_back(pass.rows());
    pass.spans.push_back({row.slot, pass.rows(), 1});
    feed(pass, row.slot, slot.pending, row.position + std::max(row.tokens, 1) + made - 1);
  }
  if (going.empty()) return;
  forward(pass);
  std::vector<std::int32_t> sampled(going.size());
  std::vector<Logprobs> logprobs(going.size());
  for_each_logits(token_rows, [&](int i, float* logits, float* scratch) {
    sampled[i] = choose(pass.spans[i].slot, pass.positions[i], nullptr, logits, scratch, logprobs[i]);
  });
  for (std::size_t i = 0; i < going.size(); i++) {
    Slot& slot = slots_[pass.spans[i].slot];
    output.tokens[going[i]].push_back(sampled[i]);
    slot.pending = sampled[i];
    if (slot.sampling.logprobs >= 0) output.logprobs[going[i]].push_back(std::move(logprobs[i]));
  }
  output.steps++;
}

}  // namespace vivace
