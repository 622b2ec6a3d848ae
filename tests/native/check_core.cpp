// The native core without Python, for the sanitizers (make sanitize): every instruction set, format and kind of row,
// on a tiny random model whose sizes are multiples of nothing. Says what fails and exits with 1.
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <stdexcept>

#include "../../src/vivace/native/cpu.h"
#include "../../src/vivace/native/decoder.h"
#include "../../src/vivace/native/limits.h"

using namespace vivace;

namespace {

void expect(bool holds, const std::string& promise) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", promise.c_str());
  std::exit(1);
}

std::mt19937 generator(1);

std::vector<float> random_floats(std::size_t size, float deviation) {
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(size);
  for (float& value : values) value = normal(generator);
  return values;
}

void check_every_tile_runs_once() {
  for (int threads = 1; threads <= 4; threads++) {
    ThreadTeam team(threads);
    for (int job = 0; job < 2000; job++) {
      std::vector<std::atomic<int>> runs(generator() % 40);
      team.for_each(static_cast<int>(runs.size()), [&](int tile, int thread) {
        expect(thread >= 0 && thread < threads, "a thread's number is below the team's size");
        runs[tile]++;
      });
      for (const std::atomic<int>& count : runs) expect(count == 1, "every tile runs once");
      if (job % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));  // the workers park
    }
  }
}

void check_products(const Kernels& kernels, PackFormat format) {
  ThreadTeam team(2);
  const int outputs = 41, inputs = 177, rows = 9;
  const std::vector<float> matrix = random_floats(outputs * inputs, 1), bias = random_floats(outputs, 1);
  const PackedLinear linear = pack(format, {{matrix.data(), SourceType::f32, outputs, bias.data()}}, inputs, Stacking::rows, team);
  std::vector<float> x = random_floats(rows * inputs, 1);
  x[3] = 400;  // an outlier
  const int padded = linear.padded_inputs;
  Array<std::int8_t> codes(rows * padded);
  std::vector<float> scales(rows * 2), outlier_values(rows * max_outliers);
  std::vector<std::int32_t> sums(rows * padded / sum_group), outliers(rows), outlier_inputs(rows * max_outliers);
  const Activations in{x.data(), inputs, codes.data(), padded, scales.data(), 2, sums.data(), padded / sum_group,
                       outliers.data(), outlier_inputs.data(), outlier_values.data()};
  if (linear.reads_codes())
    for (int row = 0; row < rows; row++) kernels.quantize_row(x.data() + row * inputs, inputs, padded, row, in);
  std::vector<float> out(rows * outputs, 1.0f), weights(inputs);
  const LinearTile tile{0, linear.blocks(), 0, rows, out.data(), outputs, true};
  kernel_for(kernels, format.format)(linear.view(), in, tile);
  for (int row = 0; row < rows; row++)
    for (int output = 0; output < outputs; output++) {
      unpack_row(linear, output, weights.data());
      double exact = 1 + bias[output];
      for (int k = 0; k < inputs; k++) exact += static_cast<double>(weights[k]) * x[row * inputs + k];
      const double tolerance = linear.reads_codes() ? 0.5 : 1e-3;  // 177 roundings of about 0.01 each
      expect(std::fabs(out[row * outputs + output] - exact) < tolerance, std::string(kernels.name) + " multiplies");
    }
}

struct Model {
  static constexpr int vocab = 131, hidden = 56, heads = 6, kv_heads = 2, head_dim = 12, inner = 72, layers = 2;
  static constexpr int attended = heads * head_dim, qkv = (heads + 2 * kv_heads) * head_dim, rank = 20;
  std::vector<float> embedding = random_floats(vocab * hidden, 1), query = random_floats(qkv * hidden, 0.1f),
                     output = random_floats(hidden * attended, 0.1f), gate = random_floats(inner * hidden, 0.1f),
                     up = random_floats(inner * rank, 0.3f), up_factor = random_floats(rank * hidden, 0.3f),
                     down = random_floats(hidden * inner, 0.1f);

  std::unique_ptr<Decoder> load(PackFormat format, const std::string& isa, int threads) const {
    ModelShape shape{vocab, hidden, heads, kv_heads, head_dim, 256, NormKind::rms, 1e-5f, Activation::silu, 0.29f, 1.0f,
                     {{inner, 0, 0}, {inner, 24, 0}}, {{{1.0f, 0.3f, 0.1f, 0.03f, 0.01f}, 1.0f}}};
    auto decoder = std::make_unique<Decoder>(shape, DecoderOptions{format, format, isa, threads, 8, 64, 128});
    const std::vector<float> ones(hidden, 1.0f);
    for (int layer = 0; layer < layers; layer++) {
      decoder->set_linear(layer, "query_key_value", {{{query.data(), SourceType::f32, qkv}}}, hidden);
      decoder->set_linear(layer, "attention_output", {{{output.data(), SourceType::f32, hidden}}}, attended);
      const Part whole{{gate.data(), SourceType::f32, inner}};
      const Part factored{{up.data(), SourceType::f32, inner}, {up_factor.data(), SourceType::f32, rank}};
      decoder->set_linear(layer, "mlp_in", {whole, layer ? factored : whole}, hidden);
      decoder->set_linear(layer, "mlp_out", {{{down.data(), SourceType::f32, hidden}}}, inner);
      decoder->set_norm(layer, "attention_norm", ones, {});
      decoder->set_norm(layer, "mlp_norm", ones, {});
    }
    decoder->set_final_norm(ones, {});
    decoder->set_embedding({embedding.data(), SourceType::f32, vocab}, hidden);
    decoder->check_complete();
    return decoder;
  }
};

std::vector<Sampling> make_samplings() {
  std::vector<Sampling> samplings(5);
  samplings[1].temperature = 0.8f, samplings[1].seed = 7, samplings[1].logprobs = 3;
  samplings[2].temperature = 1.3f, samplings[2].top_k = 20, samplings[2].top_p = 0.9f;
  samplings[3].temperature = 1.0f, samplings[3].min_p = 0.05f, samplings[3].repetition_penalty = 1.3f,
  samplings[3].frequency_penalty = 0.5f, samplings[3].prompt_length = 10;
  samplings[4].logit_bias = {{3, 50.0f}}, samplings[4].stop_token_ids = {3}, samplings[4].min_tokens = 4;
  return samplings;
}

// Five prompts of different lengths, the first ones computed in chunks, then a burst for all.
std::vector<std::vector<std::int32_t>> run_crowd(Decoder& decoder) {
  std::mt19937 tokens(3);
  StepInput opening;
  for (int slot = 0; slot < 5; slot++) {
    const int count = 10 + 13 * slot;
    opening.rows.push_back({slot, 0, count, 8, 1, 0, 0, Want::sample, true});
    for (int i = 0; i < count; i++) opening.tokens.push_back(static_cast<int>(tokens() % Model::vocab));
    for (int i = 0; i < 8; i++) opening.blocks.push_back(8 * slot + i);
  }
  opening.samplings = make_samplings();
  // 180 tokens are more than a batch holds: the last row goes alone.
  StepInput last = opening;
  last.rows = {opening.rows[4]};
  last.tokens.assign(opening.tokens.end() - 62, opening.tokens.end());
  last.blocks.assign(opening.blocks.end() - 8, opening.blocks.end());
  last.samplings = {opening.samplings[4]};
  opening.rows.pop_back();
  opening.tokens.resize(opening.tokens.size() - 62);
  opening.blocks.resize(opening.blocks.size() - 8);
  opening.samplings.pop_back();
  StepOutput first = decoder.step(opening);
  first.tokens.push_back(decoder.step(last).tokens[0]);
  StepInput burst;
  for (int slot = 0; slot < 5; slot++) burst.rows.push_back({slot, 10 + 13 * slot, 0, 0, 12, 0, 0, Want::sample, false});
  burst.max_steps = 12;
  burst.burst_ms = 1e9;
  const StepOutput rest = decoder.step(burst);
  for (int slot = 0; slot < 5; slot++)
    first.tokens[slot].insert(first.tokens[slot].end(), rest.tokens[slot].begin(), rest.tokens[slot].end());
  return first.tokens;
}

void check_other_rows(Decoder& decoder) {
  std::vector<std::int32_t> tokens(30);
  std::iota(tokens.begin(), tokens.end(), 5);
  StepInput score{{{0, 0, 30, 2, 1, 30, 0, Want::score, true}}, tokens, {0, 1}, tokens, {}, {Sampling{}}, {}, 1, 0};
  expect(decoder.step(score).scores.at(0).size() == 30, "a score row gives a score for each target");
  StepInput hidden{{{1, 0, 30, 2, 1, 0, 0, Want::hidden, true}}, tokens, {2, 3}, {}, {}, {Sampling{}}, {}, 1, 0};
  expect(decoder.step(hidden).hidden.at(0).size() == 30 * Model::hidden, "a hidden row gives its states");
  StepInput masked{{{2, 0, 30, 3, 1, 0, 0, Want::sample, true}}, tokens, {4, 5, 6}, {}, {}, {Sampling{}}, {}, 1, 0};
  masked.masks[0] = std::string(17, '\0');
  masked.masks[0][5] = 1 << 2;
  expect(decoder.step(masked).tokens[0][0] == 42, "a mask leaves only what it allows");
  StepInput verify{{{2, 30, 3, 0, 1, 0, 0, Want::verify, false}}, {42, 1, 2}, {}, {}, {}, {}, {}, 1, 0};
  const std::size_t kept = decoder.step(verify).tokens[0].size();
  expect(kept >= 1 && kept <= 3, "verify keeps at least one token");
  StepInput bad = score;
  bad.blocks[1] = 1 << 20;
  try {
    decoder.step(bad);
    expect(false, "a block that is not there is refused");
  } catch (const std::invalid_argument&) {
  }
}

}  // namespace

int main() {
  check_every_tile_runs_once();
  expect(measure_read_bandwidth(1 << 20, 3, 2) > 0, "bandwidth is measured");
  expect(measure_multiply_rate(Format::int4, "", 2, 1) > 0, "the rate of multiplying is measured");
  const Model model;
  for (const std::string& isa : supported_isas())
    for (const PackFormat format : {PackFormat{Format::f32}, PackFormat{Format::bf16}, PackFormat{Format::int8},
                                    PackFormat{Format::int4, 32}, PackFormat{Format::int4, 128}}) {
      check_products(select_kernels(isa), format);
      const auto alone = model.load(format, isa, 1), shared = model.load(format, isa, 3);
      expect(run_crowd(*alone) == run_crowd(*shared), isa + ": threads change nothing");
      check_other_rows(*shared);
    }
  std::puts("the native core keeps its promises");
}
