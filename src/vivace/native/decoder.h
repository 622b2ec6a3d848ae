// One decoder-only transformer: its weights, its paged KV cache, its slots, and the step that moves them on.
// It knows no scheduler and no text; whoever calls it sees to it that blocks are shared only where that is sound.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels.h"
#include "memory.h"
#include "pack.h"
#include "sampler.h"
#include "threads.h"

namespace vivace {

constexpr int block_tokens = lanes;  // tokens in a KV block

enum class NormKind { rms, layer };

struct LayerShape {
  int intermediate_size;
  int window;  // 0: sees everything before it
  int rope;    // index into ModelShape::ropes; -1: none
};

struct Rope {
  std::vector<float> inverse_frequencies;  // one for each rotated pair
  float scale;                             // of cosine and sine
};

struct ModelShape {
  int vocab_size, hidden_size, heads, kv_heads, head_dim, context_length;
  NormKind norm;
  float norm_eps;
  Activation activation;
  float attention_scale, embedding_scale;
  std::vector<LayerShape> layers;
  std::vector<Rope> ropes;
};

struct DecoderOptions {
  PackFormat format;        // of the layers' linears
  PackFormat table_format;  // of embedding and head
  std::string isa;  // "": the best there is
  int threads, slots, blocks, max_batch_tokens;
};

struct Norm {
  std::vector<float> weight, bias;  // empty: this norm does not exist, or has no bias
};

// One matrix as a checkpoint has it: y = matrix x, or y = matrix (factor x) where `factor` has rows.
struct Part {
  Source matrix;
  Source factor{};
};

// One or more matrices over the same inputs, in as few pieces as their kinds allow.
struct Projection {
  struct Piece {
    PackedLinear inner;  // empty, or [rank, inputs]
    PackedLinear outer;  // [outputs, inputs or rank]
    int first_output;
  };
  std::vector<Piece> pieces;
  int inputs = 0, outputs = 0;
  bool fused = false;  // one piece; of two matrices, 16 rows of each in turn

  std::size_t bytes() const;
};

struct LayerWeights {
  Projection query_key_value, attention_output, mlp_in, mlp_out;
  bool gated = false;
  Norm attention_norm, mlp_norm, query_norm, key_norm, attention_post_norm, mlp_post_norm;
};

enum class Want { nothing = 0, sample = 1, verify = 2, score = 3, hidden = 4 };

// One row of a step; `tokens` 0 means the token that the slot sampled last.
struct RowInput {
  int slot, position, tokens, blocks, limit, targets, history;
  Want want;
  bool opens;
};

struct StepInput {
  std::vector<RowInput> rows;
  std::vector<std::int32_t> tokens, blocks, targets, history;  // of all rows, one after another
  std::vector<Sampling> samplings;                             // of the rows that open a slot, in order
  std::map<int, std::string> masks;                            // by row, a bit a token
  int max_steps = 1;
  double burst_ms = 0;
};

struct StepOutput {
  std::vector<std::vector<std::int32_t>> tokens;  // of each row
  std::map<int, std::vector<float>> scores;       // by row
  std::map<int, std::vector<float>> hidden;       // by row: [tokens][hidden_size]
  std::map<int, std::vector<Logprobs>> logprobs;  // by row, of each of its tokens
  int steps = 0;
};

class Decoder {
 public:
  Decoder(ModelShape shape, DecoderOptions options);  // throws std::invalid_argument

  // Weights, each to be set once before the first step. Names are those of LayerWeights' members.
  void set_linear(int layer, const std::string& name, const std::vector<Part>& parts, int inputs);
  void set_norm(int layer, const std::string& name, std::vector<float> weight, std::vector<float> bias);
  void set_final_norm(std::vector<float> weight, std::vector<float> bias);
  void set_embedding(const Source& table, int inputs);
  void set_positions(std::vector<float> table);  // [context][hidden]
  void set_head(const Part& part, int inputs);   // left out: tied to the embedding
  void check_complete() const;                   // throws std::invalid_argument naming what is missing

  // Throws std::invalid_argument, changing nothing, for input that breaks the contract.
  StepOutput step(const StepInput& input);
  void interrupt() { interrupted_.store(true, std::memory_order_relaxed); }

  const char* isa() const { return kernels_.name; }
  int threads() const { return team_.size(); }
  std::size_t weight_bytes() const;
  std::size_t step_bytes() const;  // of the weights that a pass over one token reads whole
  std::size_t kv_bytes_per_token() const;

 private:
  struct Slot {
    std::vector<std::int32_t> table;
    Sampling sampling;
    std::int32_t pending = 0;
    std::vector<std::int32_t> history;  // of every position fed, where the sampling reads it
  };
  // A run of token rows of one slot, in one pass of the model.
  struct Span {
    int slot, first_row, rows;
  };
  // Everything one pass computes: one entry a token row.
  struct Pass {
    std::vector<std::int32_t> tokens, positions;
    std::vector<Span> spans;
    int rows() const { return static_cast<int>(tokens.size()); }
  };
  struct AttentionTile {
    int span, first_head, heads, first_row, rows;  // heads of keys and values
  };

  void check(const StepInput& input) const;
  Pass begin(const StepInput& input);
  StepOutput collect_first(const StepInput& input, const Pass& pass);
  void burst(const StepInput& input, StepOutput& output);
  void feed(Pass& pass, int slot, std::int32_t token, int position);
  std::int32_t choose(int slot, int position, const char* mask, float* logits, float* scratch, Logprobs& logprobs);

  void forward(const Pass& pass);  // leaves the residual stream in hidden_
  void embed(const Pass& pass);
  void rotate_positions(const Pass& pass);
  void run_attention(const Pass& pass, int layer, const std::vector<AttentionTile>& tiles);
  void place_row(const Pass& pass, int layer, int slot, int row, int first_head, int heads);
  void attend(const Pass& pass, int layer, const AttentionTile& tile, int thread);
  void run_mlp(const Pass& pass, int layer);
  void add_to_residual(const Projection& projection, const float* values, std::ptrdiff_t stride, int rows,
                       const Norm& post_norm);
  std::vector<AttentionTile> plan_attention(const Pass& pass) const;

  // Calls use(i, logits, scratch) for each i with the logits after token row rows[i].
  template <class Use>
  void for_each_logits(const std::vector<int>& rows, Use&& use);
  template <class Body>
  void for_rows(int rows, Body&& body);
  template <class Produce>
  Activations prepare(const PackedLinear& linear, int rows, const float* values, std::ptrdiff_t stride, Produce&& produce);
  template <class Produce>
  void project(const Projection& projection, int rows, const float* values, std::ptrdiff_t stride, Produce&& produce,
               float* out, std::ptrdiff_t out_stride, bool accumulate);
  template <class Body>
  void for_tiles(const PackedLinear& linear, int rows, int block_multiple, Body&& body);
  void multiply_into(const PackedLinear& linear, const Activations& in, int rows, float* out, std::ptrdiff_t stride,
                     bool accumulate);
  void normalize(const Norm& norm, const float* in, int size, float* out) const;
  void run_kernel(const PackedLinear& linear, const Activations& in, const LinearTile& tile) const;
  void rotate_head(float* head, int rope, int row) const;
  template <class Element>
  void store_key_value(int layer, int slot, int position, int head, const float* key, const float* value);
  std::size_t kv_offset(int layer, int kv_head) const;
  LayerWeights& layer(int index);
  void make_room_for_rank(int rank);
  Projection pack_projection(PackFormat format, const std::vector<Part>& parts, int inputs, bool interleave);

  ModelShape shape_;
  DecoderOptions options_;
  const Kernels& kernels_;
  ThreadTeam team_;

  std::vector<LayerWeights> layers_;
  PackedLinear embedding_;
  Projection head_;  // no pieces: tied to the embedding
  std::vector<float> positions_;
  Norm final_norm_;

  std::vector<Slot> slots_;
  bool f16_cache_;
  int padded_head_dim_, qkv_size_;
  std::size_t block_elements_;  // of one layer's keys and values in one block
  Memory cache_;                // [layers][blocks][kv_heads](keys [head_dim][16], values [16][padded_head_dim])

  // Scratch, one row a token of the batch.
  std::ptrdiff_t width_;       // widest input of any linear, padded
  Array<float> hidden_;        // [rows][hidden_size]: the residual stream
  Array<float> normed_;        // [rows][hidden_size]
  Array<float> branch_;        // [rows][hidden_size]: what a block adds, where a post-norm follows
  Array<float> qkv_;           // [rows][qkv_size_]
  Array<float> attended_;      // [rows][heads * head_dim]
  Array<float> inner_;         // [rows][widest intermediate]
  Array<float> gate_up_;       // [rows][2 * widest intermediate], where some layer's gate and up are apart
  Array<float> ranks_;         // [rows][highest rank], where some layer is factored
  Array<float> cosines_, sines_;  // [ropes][rows][half]
  int rope_half_ = 0;
  Array<std::int8_t> codes_;
  Array<float> code_scales_, outlier_values_;
  Array<std::int32_t> code_sums_, outliers_, outlier_inputs_;
  Array<float> logits_;         // [logit_rows_][vocab]
  int logit_rows_;
  std::vector<Array<float>> scores_;   // of each thread: [max_queries][padded context]
  std::vector<Array<float>> scratch_;  // of each thread: one tile's outputs, or one row's probabilities
  int tile_rows_;

  std::atomic<bool> interrupted_{false};
};

}  // namespace vivace
