// Attention over a paged cache. Part of kernels_generic.h, which says where it is included.

inline const float* step(const float* p, std::ptrdiff_t n) { return p + n; }
inline const std::uint16_t* step(const std::uint16_t* p, std::ptrdiff_t n) { return p + n; }

// scores[q][t] = query q . key t for some blocks side by side, -infinity where q does not see t: each sum is one chain of additions, and a single one would
// leave the processor waiting for it.
template <class Element, int Queries, int Blocks>
inline void score_side_by_side(const AttentionTask& task, int first_query, int block, Floats (&highest_lane)[Queries]) {
  const Element* keys[Blocks];
  repeat<Blocks>([&](auto b) INLINE {
    keys[b] = step(static_cast<const Element*>(task.keys), task.table[block + b] * task.block_stride);
  });
  Floats dots[Queries][Blocks];
  repeat<Queries>([&](auto q) INLINE {
    repeat<Blocks>([&](auto b) INLINE { dots[q][b] = zero(); });
  });
  for (int d = 0; d < task.head_dim; d++) {
    Floats key[Blocks];
    repeat<Blocks>([&](auto b) INLINE { key[b] = load(keys[b] + d * lanes); });
    repeat<Queries>([&](auto q) INLINE {
      const Floats value = broadcast(task.query[first_query + q][d]);
      repeat<Blocks>([&](auto b) INLINE { dots[q][b] = fma(value, key[b], dots[q][b]); });
    });
  }
  repeat<Queries>([&](auto q) INLINE {
    float* scores = task.scores + (first_query + q) * task.score_stride;
    repeat<Blocks>([&](auto b) INLINE {
      const int at = (block + b) * lanes, from = task.first[first_query + q] - at, to = task.last[first_query + q] - at;
      Floats seen = dots[q][b];
      if (from > 0 || to < lanes - 1) seen = keep_lanes(seen, from, to, -__builtin_inff());
      store(scores + at, seen);
      highest_lane[q] = max(highest_lane[q], seen);
    });
  });
}

// The same for 1 to Most blocks.
template <class Element, int Queries, int Most>
inline void score_some(const AttentionTask& task, int first_query, int block, int blocks, Floats (&highest_lane)[Queries]) {
  if (blocks == Most)
    score_side_by_side<Element, Queries, Most>(task, first_query, block, highest_lane);
  else if constexpr (Most > 1)
    score_some<Element, Queries, Most - 1>(task, first_query, block, blocks, highest_lane);
}

// Scores of every block that some query sees, and each query's highest. Blocks are shared out evenly: a last one alone
// would take as long as eight.
template <class Element, int Queries>
void score_blocks(const AttentionTask& task, int first_query, int first_block, int last_block, float* highest) {
  constexpr int together = Queries < attention_sums ? attention_sums / Queries : 1;
  Floats highest_lane[Queries];
  repeat<Queries>([&](auto q) INLINE { highest_lane[q] = broadcast(-__builtin_inff()); });
  int left = last_block + 1 - first_block;
  for (int groups = (left + together - 1) / together; groups > 0; groups--) {
    const int blocks = (left + groups - 1) / groups;
    score_some<Element, Queries, together>(task, first_query, last_block + 1 - left, blocks, highest_lane);
    left -= blocks;
  }
  repeat<Queries>([&](auto q) INLINE { highest[q] = largest(highest_lane[q]); });
}

// Turns scores into e^(score - highest) and returns their sum.
inline float exponentiate(float* scores, int first_block, int last_block, float highest) {
  Floats total = zero();
  for (int block = first_block; block <= last_block; block++) {
    const Floats weight = exponential(load(scores + block * lanes) - broadcast(highest));
    store(scores + block * lanes, weight);
    total = total + weight;
  }
  return sum(total);
}

// out = sum over tokens of weight x value, for Vectors x 16 dimensions from `first_dim` on.
template <class Element, int Queries, int Vectors>
void mix_values(const AttentionTask& task, int first_query, int first, int last, int first_dim, const float* scale) {
  Floats total[Queries][Vectors];
  repeat<Queries>([&](auto q) INLINE {
    repeat<Vectors>([&](auto i) INLINE { total[q][i] = zero(); });
  });
  for (int token = first; token <= last;) {
    const int block = token / lanes;
    const Element* values =
        step(static_cast<const Element*>(task.values), task.table[block] * task.block_stride + first_dim);
    const int end = smaller(last, block * lanes + lanes - 1);
    for (; token <= end; token++) {
      const Element* value = values + (token - block * lanes) * task.padded_head_dim;
      Floats loaded[Vectors];
      repeat<Vectors>([&](auto i) INLINE { loaded[i] = load(value + i * lanes); });
      repeat<Queries>([&](auto q) INLINE {
        const Floats weight = broadcast(task.scores[(first_query + q) * task.score_stride + token]);
        repeat<Vectors>([&](auto i) INLINE { total[q][i] = fma(weight, loaded[i], total[q][i]); });
      });
    }
  }
  repeat<Queries>([&](auto q) INLINE {
    repeat<Vectors>([&](auto i) INLINE {
      const int dim = first_dim + i * lanes, count = smaller(lanes, task.head_dim - dim);
      store_first(task.out[first_query + q] + dim, total[q][i] * broadcast(scale[q]), count);
    });
  });
}

template <class Element, int Queries>
void attend_queries(const AttentionTask& task, int first_query) {
  int first = task.first[first_query], last = task.last[first_query];
  for (int q = 1; q < Queries; q++) {
    first = smaller(first, task.first[first_query + q]);
    last = last > task.last[first_query + q] ? last : task.last[first_query + q];
  }
  const int first_block = first / lanes, last_block = last / lanes;
  float highest[Queries], scale[Queries];
  score_blocks<Element, Queries>(task, first_query, first_block, last_block, highest);
  repeat<Queries>([&](auto q) INLINE {
    scale[q] = 1.0f / exponentiate(task.scores + (first_query + q) * task.score_stride, first_block, last_block, highest[q]);
  });
  int dim = 0;
  for (; dim + 4 * lanes <= task.padded_head_dim; dim += 4 * lanes)
    mix_values<Element, Queries, 4>(task, first_query, first, last, dim, scale);
  for (; dim < task.padded_head_dim; dim += lanes) mix_values<Element, Queries, 1>(task, first_query, first, last, dim, scale);
}

template <class Element>
void attend(const AttentionTask& task) {
  int q = 0;
  for (; q + 4 <= task.queries; q += 4) attend_queries<Element, 4>(task, q);
  if (task.queries - q == 3) attend_queries<Element, 3>(task, q);
  if (task.queries - q == 2) attend_queries<Element, 2>(task, q);
  if (task.queries - q == 1) attend_queries<Element, 1>(task, q);
}

void store_f16_strided(const float* values, int count, std::uint16_t* out, std::ptrdiff_t out_stride) {
  const Floats bound = broadcast(65504.0f);  // the largest f16: never infinity, whatever the model does
  for (int i = 0; i < count; i += lanes) {
    const int left = smaller(lanes, count - i);
    std::uint16_t halves[lanes];
    store_f16(halves, max(min(load_first(values + i, left), bound), zero() - bound));
    for (int j = 0; j < left; j++) out[(i + j) * out_stride] = halves[j];
  }
}
