// The Python face of the native core: converts, calls without the GIL, converts back.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <map>
#include <stdexcept>

#include "cpu.h"
#include "decoder.h"
#include "limits.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace vivace;

namespace {

using Matrix = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class Value>
Value look_up(const std::map<std::string, Value>& names, const std::string& name) {
  const auto found = names.find(name);
  if (found == names.end()) throw std::invalid_argument("unknown name: " + name);
  return found->second;
}

const std::map<std::string, Format> formats = {
    {"none", Format::f32}, {"bf16", Format::bf16}, {"int8", Format::int8}, {"int4", Format::int4}};

// A float matrix: float32, float16, or bfloat16 bits in uint16.
Source as_source(const Matrix& matrix) {
  Source source{.data = matrix.data(), .type = SourceType::f32, .rows = static_cast<int>(matrix.shape(0))};
  const nb::dlpack::dtype type = matrix.dtype();
  if (type == nb::dtype<std::uint16_t>()) {
    source.type = SourceType::bf16;
  } else if (type.code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float) && type.bits == 16) {
    source.type = SourceType::f16;
  } else if (type != nb::dtype<float>()) {
    throw std::invalid_argument("a matrix must be float32, float16, or bfloat16 bits in uint16");
  }
  return source;
}

// A matrix of integers. `codes` is int8 [rows, inputs], or uint8 [rows, inputs / 2] with the low nibble first.
using Floats2 = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Bytes2 = nb::ndarray<const std::uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
struct Integers {
  Matrix codes;
  Floats2 scales;  // [rows, groups]
  std::optional<Bytes2> zeros;
  int group_size;

  int inputs() const { return static_cast<int>(codes.shape(1)) * (codes.dtype() == nb::dtype<std::int8_t>() ? 1 : 2); }
  Source source() const {
    Source source{.data = codes.data(), .type = SourceType::int8, .rows = static_cast<int>(codes.shape(0))};
    const bool bytes = codes.dtype() == nb::dtype<std::int8_t>();
    if (!bytes && codes.dtype() != nb::dtype<std::uint8_t>())
      throw std::invalid_argument("codes must be int8, or nibbles in uint8");
    const std::size_t groups = bytes ? 1 : (inputs() + group_size - 1) / std::max(group_size, 1);
    if (scales.shape(0) != codes.shape(0) || scales.shape(1) != groups)
      throw std::invalid_argument("scales must be [rows, groups]");
    if (zeros && (bytes || zeros->shape(0) != codes.shape(0) || zeros->shape(1) != groups))
      throw std::invalid_argument("zeros must be [rows, groups], for nibbles alone");
    source.scales = scales.data();
    if (!bytes) {
      source.type = SourceType::int4;
      source.zeros = zeros ? zeros->data() : nullptr;
      source.group_size = group_size;
    }
    return source;
  }
};

std::vector<float> as_floats(const std::optional<Vector>& values) {
  if (!values) return {};
  return {values->data(), values->data() + values->shape(0)};
}

// A matrix, its bias, and the factor that comes before it.
using PartTuple = std::tuple<std::variant<Matrix, Integers*>, std::optional<Vector>, std::optional<Matrix>>;

Part as_part(const PartTuple& tuple, int& inputs) {
  const auto& [matrix, bias, factor] = tuple;
  Part part;
  if (const Matrix* floats = std::get_if<Matrix>(&matrix)) {
    part.matrix = as_source(*floats);
    inputs = static_cast<int>(floats->shape(1));
  } else {
    part.matrix = std::get<Integers*>(matrix)->source();
    inputs = std::get<Integers*>(matrix)->inputs();
  }
  if (bias) {
    if (static_cast<int>(bias->shape(0)) != part.matrix.rows)
      throw std::invalid_argument("a bias must be as long as its matrix has rows");
    part.matrix.bias = bias->data();
  }
  if (factor) {
    if (static_cast<int>(factor->shape(0)) != inputs)
      throw std::invalid_argument("a factor must have as many rows as its matrix has inputs");
    part.factor = as_source(*factor);
    inputs = static_cast<int>(factor->shape(1));
  }
  return part;
}

void set_linear(Decoder& decoder, int layer, const std::string& name, const std::vector<PartTuple>& tuples) {
  std::vector<Part> parts;
  int inputs = 0;
  for (const PartTuple& tuple : tuples) {
    int own_inputs = 0;
    parts.push_back(as_part(tuple, own_inputs));
    if (parts.size() > 1 && own_inputs != inputs) throw std::invalid_argument("parts of a linear differ in width");
    inputs = own_inputs;
  }
  nb::gil_scoped_release release;
  decoder.set_linear(layer, name, parts, inputs);
}

void set_embedding(Decoder& decoder, const std::variant<Matrix, Integers*>& table) {
  const Matrix* floats = std::get_if<Matrix>(&table);
  const Source source = floats ? as_source(*floats) : std::get<Integers*>(table)->source();
  const int inputs = floats ? static_cast<int>(floats->shape(1)) : std::get<Integers*>(table)->inputs();
  nb::gil_scoped_release release;
  decoder.set_embedding(source, inputs);
}

void set_head(Decoder& decoder, const PartTuple& tuple) {
  int inputs = 0;
  const Part part = as_part(tuple, inputs);
  nb::gil_scoped_release release;
  decoder.set_head(part, inputs);
}

// slot, position, tokens, blocks, limit, targets, history, want, opens
using RowTuple = std::tuple<int, int, int, int, int, int, int, int, bool>;

nb::tuple step(Decoder& decoder, const std::vector<RowTuple>& rows, std::vector<std::int32_t> tokens,
               std::vector<std::int32_t> blocks, std::vector<std::int32_t> targets, std::vector<std::int32_t> history,
               const std::vector<Sampling*>& samplings, const nb::dict& masks, int max_steps, double burst_ms) {
  StepInput input;
  for (const auto& [slot, position, token_count, block_count, limit, target_count, history_count, want, opens] : rows)
    input.rows.push_back({slot, position, token_count, block_count, limit, target_count, history_count,
                          static_cast<Want>(want), opens});
  for (const Sampling* sampling : samplings) input.samplings.push_back(*sampling);
  for (const auto& [row, mask] : masks) {
    const nb::bytes bytes = nb::cast<nb::bytes>(mask);
    input.masks[nb::cast<int>(row)] = std::string(bytes.c_str(), bytes.size());
  }
  input.tokens = std::move(tokens);
  input.blocks = std::move(blocks);
  input.targets = std::move(targets);
  input.history = std::move(history);
  input.max_steps = max_steps;
  input.burst_ms = burst_ms;
  StepOutput output;
  {
    nb::gil_scoped_release release;
    output = decoder.step(input);
  }
  nb::dict scores, hidden;
  for (const auto& [row, values] : output.scores) scores[nb::int_(row)] = nb::cast(values);
  for (const auto& [row, values] : output.hidden)
    hidden[nb::int_(row)] = nb::bytes(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  nb::dict logprobs;
  for (const auto& [row, values] : output.logprobs) {
    nb::list list;
    for (const Logprobs& value : values) list.append(nb::make_tuple(value.chosen, value.likeliest));
    logprobs[nb::int_(row)] = list;
  }
  return nb::make_tuple(output.tokens, output.steps, scores, hidden, logprobs);
}

void construct(Decoder* self, int vocab_size, int hidden_size, int heads, int kv_heads, int head_dim, int context_length,
               const std::string& norm, float norm_eps, const std::string& activation, float attention_scale,
               float embedding_scale, const std::vector<std::tuple<int, int, int>>& layers,
               const std::vector<std::pair<std::vector<float>, float>>& ropes, const std::string& format,
               const std::string& table_format, int group_size, const std::string& isa, int threads, int slots, int blocks, int max_batch_tokens) {
  ModelShape shape{};
  shape.vocab_size = vocab_size;
  shape.hidden_size = hidden_size;
  shape.heads = heads;
  shape.kv_heads = kv_heads;
  shape.head_dim = head_dim;
  shape.context_length = context_length;
  shape.norm = look_up<NormKind>({{"rms", NormKind::rms}, {"layer", NormKind::layer}}, norm);
  shape.norm_eps = norm_eps;
  shape.activation = look_up<Activation>(
      {{"silu", Activation::silu}, {"gelu", Activation::gelu}, {"gelu_tanh", Activation::gelu_tanh}}, activation);
  shape.attention_scale = attention_scale;
  shape.embedding_scale = embedding_scale;
  for (const auto& [intermediate_size, window, rope] : layers) shape.layers.push_back({intermediate_size, window, rope});
  for (const auto& [inverse_frequencies, scale] : ropes) shape.ropes.push_back({inverse_frequencies, scale});
  const PackFormat linear{look_up(formats, format), group_size}, table{look_up(formats, table_format), group_size};
  new (self) Decoder(std::move(shape), {linear, table, isa, threads, slots, blocks, max_batch_tokens});
}

}  // namespace

NB_MODULE(_native, module) {
  module.doc() = "The native core: one decoder, its weights, its KV cache and its slots.";
  module.def("supported_isas", &supported_isas, "Instruction sets this machine can run, best first.");
  module.def("measure_read_bandwidth", &measure_read_bandwidth, "bytes"_a, "threads"_a, "passes"_a,
             nb::call_guard<nb::gil_scoped_release>(), "GB/s, the best of some passes over that much memory.");
  module.def("measure_multiply_rate",
             [](const std::string& format, const std::string& isa, int threads, int passes) {
               const Format known = look_up(formats, format);
               nb::gil_scoped_release release;
               return measure_multiply_rate(known, isa, threads, passes);
             }, "format"_a, "isa"_a, "threads"_a, "passes"_a, "Operations a second of the tile loop at its best.");
  nb::class_<Integers>(module, "Integers", "A matrix of integer codes with their scales.")
      .def("__init__",
           [](Integers* self, Matrix codes, Floats2 scales, std::optional<Bytes2> zeros, int group_size) {
             new (self) Integers{codes, scales, zeros, group_size};
           }, "codes"_a, "scales"_a, "zeros"_a.none(), "group_size"_a);
  nb::class_<Sampling>(module, "Sampling", "How a slot chooses tokens; see vivace.batch.Sampling.")
      .def("__init__",
           [](Sampling* self, float temperature, int top_k, float top_p, std::uint64_t seed,
              std::vector<std::int32_t> stop_token_ids, float min_p, float repetition_penalty, float presence_penalty,
              float frequency_penalty, std::vector<std::pair<std::int32_t, float>> logit_bias, int min_tokens,
              int prompt_length, int logprobs) {
             new (self) Sampling{temperature, top_k, top_p, seed, std::move(stop_token_ids), min_p, repetition_penalty,
                                 presence_penalty, frequency_penalty, std::move(logit_bias), min_tokens, prompt_length,
                                 logprobs};
           }, nb::kw_only(), "temperature"_a, "top_k"_a, "top_p"_a, "seed"_a, "stop_token_ids"_a, "min_p"_a,
           "repetition_penalty"_a, "presence_penalty"_a, "frequency_penalty"_a, "logit_bias"_a, "min_tokens"_a,
           "prompt_length"_a, "logprobs"_a);
  nb::class_<Decoder>(module, "Decoder")
      .def("__init__", &construct, nb::kw_only(), "vocab_size"_a, "hidden_size"_a, "heads"_a, "kv_heads"_a, "head_dim"_a,
           "context_length"_a, "norm"_a, "norm_eps"_a, "activation"_a, "attention_scale"_a, "embedding_scale"_a,
           "layers"_a, "ropes"_a, "format"_a, "table_format"_a, "group_size"_a, "isa"_a, "threads"_a, "slots"_a, "blocks"_a, "max_batch_tokens"_a)
      .def("set_linear", &set_linear, "layer"_a, "name"_a, "parts"_a)
      .def("set_norm",
           [](Decoder& decoder, int layer, const std::string& name, const Vector& weight, std::optional<Vector> bias) {
             decoder.set_norm(layer, name, as_floats(weight), as_floats(bias));
           }, "layer"_a, "name"_a, "weight"_a, "bias"_a.none())
      .def("set_final_norm",
           [](Decoder& decoder, const Vector& weight, std::optional<Vector> bias) {
             decoder.set_final_norm(as_floats(weight), as_floats(bias));
           }, "weight"_a, "bias"_a.none())
      .def("set_embedding", &set_embedding, "table"_a)
      .def("set_head", &set_head, "part"_a)
      .def("set_positions", [](Decoder& decoder, const Vector& table) { decoder.set_positions(as_floats(table)); })
      .def("check_complete", &Decoder::check_complete)
      .def("step", &step, "rows"_a, "tokens"_a, "blocks"_a, "targets"_a, "history"_a, "samplings"_a, "masks"_a,
           "max_steps"_a, "burst_ms"_a)
      .def("interrupt", &Decoder::interrupt)
      .def_prop_ro("isa", &Decoder::isa)
      .def_prop_ro("threads", &Decoder::threads)
      .def_prop_ro("weight_bytes", &Decoder::weight_bytes)
      .def_prop_ro("step_bytes", &Decoder::step_bytes)
      .def_prop_ro("kv_bytes_per_token", &Decoder::kv_bytes_per_token);
}
