// The Python face of the native core: converts, calls without the GIL, converts back.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <map>
#include <stdexcept>

#include "cpu.h"
#include "decoder.h"

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

Source as_source(const Matrix& matrix, const std::optional<Vector>& bias) {
  Source source{matrix.data(), SourceType::f32, static_cast<int>(matrix.shape(0)), nullptr};
  const nb::dlpack::dtype type = matrix.dtype();
  if (type == nb::dtype<float>()) {
    source.type = SourceType::f32;
  } else if (type == nb::dtype<std::uint16_t>()) {
    source.type = SourceType::bf16;
  } else if (type.code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float) && type.bits == 16) {
    source.type = SourceType::f16;
  } else {
    throw std::invalid_argument("a matrix must be float32, float16, or bfloat16 bits in uint16");
  }
  if (bias) {
    if (bias->shape(0) != matrix.shape(0)) throw std::invalid_argument("a bias must be as long as its matrix has rows");
    source.bias = bias->data();
  }
  return source;
}

std::vector<float> as_floats(const std::optional<Vector>& values) {
  if (!values) return {};
  return {values->data(), values->data() + values->shape(0)};
}

using Part = std::pair<Matrix, std::optional<Vector>>;

void set_linear(Decoder& decoder, int layer, const std::string& name, const std::vector<Part>& parts) {
  std::vector<Source> sources;
  for (const auto& [matrix, bias] : parts) {
    if (matrix.shape(1) != parts[0].first.shape(1)) throw std::invalid_argument("parts of a linear differ in width");
    sources.push_back(as_source(matrix, bias));
  }
  const int inputs = parts.empty() ? 0 : static_cast<int>(parts[0].first.shape(1));
  nb::gil_scoped_release release;
  decoder.set_linear(layer, name, sources, inputs);
}

void set_table(Decoder& decoder, void (Decoder::*set)(const Source&), const Matrix& matrix) {
  const Source source = as_source(matrix, std::nullopt);
  nb::gil_scoped_release release;
  (decoder.*set)(source);
}

// slot, position, tokens, blocks, limit, targets, want, opens
using RowTuple = std::tuple<int, int, int, int, int, int, int, bool>;
// temperature, top_k, top_p, seed, stop_token_ids
using SamplingTuple = std::tuple<float, int, float, std::uint64_t, std::vector<std::int32_t>>;

nb::tuple step(Decoder& decoder, const std::vector<RowTuple>& rows, std::vector<std::int32_t> tokens,
               std::vector<std::int32_t> blocks, std::vector<std::int32_t> targets,
               const std::vector<SamplingTuple>& samplings, int max_steps, double burst_ms) {
  StepInput input;
  for (const auto& [slot, position, token_count, block_count, limit, target_count, want, opens] : rows)
    input.rows.push_back({slot, position, token_count, block_count, limit, target_count, static_cast<Want>(want), opens});
  for (const auto& [temperature, top_k, top_p, seed, stops] : samplings)
    input.samplings.push_back({temperature, top_k, top_p, seed, stops});
  input.tokens = std::move(tokens);
  input.blocks = std::move(blocks);
  input.targets = std::move(targets);
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
  return nb::make_tuple(output.tokens, output.steps, scores, hidden);
}

void construct(Decoder* self, int vocab_size, int hidden_size, int heads, int kv_heads, int head_dim, int context_length,
               const std::string& norm, float norm_eps, const std::string& activation, float attention_scale,
               float embedding_scale, const std::vector<std::tuple<int, int, int>>& layers,
               const std::vector<std::pair<std::vector<float>, float>>& ropes, const std::string& format,
               const std::string& isa, int threads, int slots, int blocks, int max_batch_tokens) {
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
  const Format packed = look_up<Format>({{"none", Format::f32}, {"int8", Format::int8}}, format);
  new (self) Decoder(std::move(shape), {packed, isa, threads, slots, blocks, max_batch_tokens});
}

}  // namespace

NB_MODULE(_native, module) {
  module.doc() = "The native core: one decoder, its weights, its KV cache and its slots.";
  module.def("supported_isas", &supported_isas, "Instruction sets this machine can run, best first.");
  nb::class_<Decoder>(module, "Decoder")
      .def("__init__", &construct, nb::kw_only(), "vocab_size"_a, "hidden_size"_a, "heads"_a, "kv_heads"_a, "head_dim"_a,
           "context_length"_a, "norm"_a, "norm_eps"_a, "activation"_a, "attention_scale"_a, "embedding_scale"_a,
           "layers"_a, "ropes"_a, "format"_a, "isa"_a, "threads"_a, "slots"_a, "blocks"_a, "max_batch_tokens"_a)
      .def("set_linear", &set_linear, "layer"_a, "name"_a, "parts"_a)
      .def("set_norm",
           [](Decoder& decoder, int layer, const std::string& name, const Vector& weight, std::optional<Vector> bias) {
             decoder.set_norm(layer, name, as_floats(weight), as_floats(bias));
           }, "layer"_a, "name"_a, "weight"_a, "bias"_a.none())
      .def("set_final_norm",
           [](Decoder& decoder, const Vector& weight, std::optional<Vector> bias) {
             decoder.set_final_norm(as_floats(weight), as_floats(bias));
           }, "weight"_a, "bias"_a.none())
      .def("set_embedding", [](Decoder& decoder, const Matrix& table) { set_table(decoder, &Decoder::set_embedding, table); })
      .def("set_head", [](Decoder& decoder, const Matrix& matrix) { set_table(decoder, &Decoder::set_head, matrix); })
      .def("set_positions", [](Decoder& decoder, const Vector& table) { decoder.set_positions(as_floats(table)); })
      .def("check_complete", &Decoder::check_complete)
      .def("step", &step, "rows"_a, "tokens"_a, "blocks"_a, "targets"_a, "samplings"_a, "max_steps"_a, "burst_ms"_a)
      .def("interrupt", &Decoder::interrupt)
      .def_prop_ro("isa", &Decoder::isa)
      .def_prop_ro("threads", &Decoder::threads)
      .def_prop_ro("weight_bytes", &Decoder::weight_bytes)
      .def_prop_ro("kv_bytes_per_token", &Decoder::kv_bytes_per_token);
}
