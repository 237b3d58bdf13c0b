// SPDX-License-Identifier: Apache-2.0
// Owns: the boundary between the host code of the cuda device (C) and its kernels (CUDA C++): plain structs
// passed by value, one launch function an operator. All pointers are device addresses unless they say
// otherwise. Every launch returns a cudaError_t as int (0: fine) and runs in the stream it is given.
// Refuses: to know layers, sessions, files or processes.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct CUstream_st;
typedef struct CUstream_st *tc_gpu_stream;

enum {
    TC_GPU_ONE_SPANS_MAX = 256,
    TC_GPU_JOBS_MAX = 8,    // matrices on one input
    TC_GPU_SPAN = 64,       // columns that share a scale
    TC_GPU_ROW_BYTES = 128, // of a rounded span: 64 high bytes, 64 low bytes
    TC_GPU_CHUNK = 256,     // positions of attention that make one partial result
    TC_GPU_MAILBOXES_MAX = 8,
    TC_GPU_TOP_K_MAX = 64,
    TC_GPU_FETCH_MAX = 256,          // experts fetched in a layer
    TC_GPU_FETCH_DISTINCT_MAX = 128, // TC_SHARE_COLD_MAX
    TC_GPU_AHEAD_MAX = 8,            // experts fetched ahead of a layer
    TC_GPU_AHEAD_PAIRS_MAX = 128,    // of a batch that is looked ahead for
    TC_GPU_AHEAD_TOP_K_MAX = 32,
    TC_GPU_AHEAD_BLOCKS = 16,   // that fetch them
    TC_GPU_AHEAD_DROP = 1,      // decided: it is not wanted,
    TC_GPU_AHEAD_END,           // or it is: it is fetched to its end
    TC_GPU_AHEAD_ALSO_MAX = 16, // experts fetched by the same kernel once the routes are known
};

// A 4-bit matrix in the packed layout (common/model/matrix.h), group 64.
typedef struct tc_gpu_q4 {
    const uint8_t *tiles, *codes; // codes: nested scales, else NULL
    const float *scales;          // float32 scales where codes is NULL
    const float *nested;          // the table behind the codes
    float offset, step;
    uint32_t phase, stride; // of the table
    uint32_t rows, spans;
    uint32_t book[4]; // the code book of 16 signed bytes
} tc_gpu_q4;

typedef enum tc_gpu_type { TC_GPU_Q4, TC_GPU_Q8, TC_GPU_BF16, TC_GPU_F16, TC_GPU_F32 } tc_gpu_type;

// y[t][r] = sum_c w[r][c] x[t][c] (+ bias[r])
typedef struct tc_gpu_job {
    tc_gpu_type type;
    tc_gpu_q4 q4;
    const void *data;    // the other types: panels of 16 rows
    const float *scales; // Q8
    uint32_t rows, cols;
    float *y;
    uint32_t ldy;
    const float *bias; // or NULL
    const float *x;    // matmul_float: this matrix's own input; NULL: that of the launch
    uint32_t first_block;
} tc_gpu_job;

typedef struct tc_gpu_jobs {
    tc_gpu_job job[TC_GPU_JOBS_MAX];
    uint32_t count, blocks;
} tc_gpu_jobs;

// Tables that outlive every launch.
typedef struct tc_gpu_tables {
    const float *map; // [256] bitsandbytes' dynamic map
    uint32_t *failed; // not 0: a join failed in this step; kernels that change state do nothing
} tc_gpu_tables;

// ---- matrices (matmul.cu) ----
// One token x, or silu(x) * up where up is not NULL: rounds it on the way. spans <= TC_GPU_ONE_SPANS_MAX.
int tc_gpu_matmul_one(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_jobs *jobs,
                      const float *x, const float *up);
// Rounds rows for tc_gpu_matmul_many: rounded [n][spans][TC_GPU_ROW_BYTES], scale [n][spans].
int tc_gpu_round(tc_gpu_stream stream, const float *x, const float *up, uint32_t ldx, uint32_t n,
                 uint32_t spans, uint8_t *rounded, float *scale);
// Any n; the same bits as tc_gpu_matmul_one. (matmul_many.cu)
int tc_gpu_matmul_many(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_jobs *jobs,
                       const uint8_t *rounded, const float *scale, uint32_t n);
// Matrices of 8 to 32 bits on one input, any n.
int tc_gpu_matmul_float(tc_gpu_stream stream, const tc_gpu_jobs *jobs, const float *x, uint32_t ldx,
                        uint32_t n);

// ---- rows (rows.cu) ----
typedef struct tc_gpu_row_args {
    float *x;            // read and written
    float *residual;     // add: x is kept here too; combine: read from here instead of x where not NULL
    const float *y;      // added
    const int64_t *sum;  // added, fixed point
    const float *shared; // added times sigmoid(gate[t * ld_gate])
    const float *gate;
    uint32_t ld_gate, n, dim;
    const float *norm; // multiplier, or NULL
    float *normed;
    const float *ahead_norm; // add: x normed by this multiplier too, or NULL
    float *ahead_normed;
    float eps;
} tc_gpu_row_args;

// Why a join failed: above bit 16 of tables.failed, whose low half is the layer plus one.
enum { TC_GPU_JOIN_ABORTED = 1, TC_GPU_JOIN_LATE, TC_GPU_JOIN_WRONG, TC_GPU_JOIN_REFUSED };

// Sums over all layers of all passes since creation, by the clock of the card.
typedef struct tc_gpu_sums {
    uint64_t wait_ns; // in joins
    uint64_t fetched; // experts, and the time from a call to the end of its fetches
    uint64_t fetch_ns;
    uint64_t side_ns; // from a call to the beginning of its join
    uint64_t calls;   // to workers, how many experts they asked for, and what the slowest said it took
    uint64_t asked, compute_us;
    uint64_t ahead_fetched, ahead_used; // experts that lay there in time, and of them those that were chosen
    uint64_t ahead_pairs;               // pairs computed from them
    uint64_t guessed, guessed_right;    // pairs of layers that something was expected of
} tc_gpu_sums;

// What is fetched ahead of one layer, while the link has nothing else to do: by post of the layer before, the
// kernel beside the pass, and this layer's route and post. All zero before a pass.
typedef struct tc_gpu_ahead {
    uint32_t listed, wanted, expert[TC_GPU_AHEAD_MAX]; // in this order
    uint32_t done[TC_GPU_AHEAD_MAX];                   // blocks that have brought their part
    uint32_t routed;                                   // the routes are known: nothing is begun any more
    // Set once, with routed: bit i: expert[i] lies whole at its place; and the one under way
    // (TC_GPU_AHEAD_MAX: none).
    uint32_t there, pending;
    uint32_t decided; // by post: what becomes of that; 0: not yet
    // By post, with decided: what this layer's quota fetches besides; and its blocks that have brought their
    // part.
    uint32_t also, also_expert[TC_GPU_AHEAD_ALSO_MAX], also_done[TC_GPU_AHEAD_ALSO_MAX], blocks_done;
    uint64_t called_ns;
} tc_gpu_ahead;

// What one layer's pairs came to. Written by post, read by those behind it.
typedef struct tc_gpu_fetch_list {
    uint32_t count, blocks_done; // to fetch
    uint32_t asked;              // distinct experts that workers compute
    uint64_t called_ns;
    const uint8_t *from[TC_GPU_FETCH_MAX];
} tc_gpu_fetch_list;

// One worker's segment (proto/shm_layout.h), as the device sees it.
typedef struct tc_gpu_mailbox {
    char *memory; // device address of the registered segment
    uint64_t x_at, pairs_at, sum_at;
    uint32_t expert_begin, expert_end, unit_begin, unit_end;
} tc_gpu_mailbox;

typedef struct tc_gpu_mailboxes {
    tc_gpu_mailbox box[TC_GPU_MAILBOXES_MAX];
    uint32_t count;
    const uint64_t *sequence; // sequence number of the step's layer 0; device memory, written by the host
    uint64_t deadline_ns;     // of one join
    uint32_t layer, precision;
    uint32_t *posted; // [mailboxes] whether this layer's post reached it
    uint64_t *joined; // sequence number of the last layer whose mailboxes have all answered
    tc_gpu_sums *sums;
    const tc_gpu_fetch_list *list; // of this layer, or NULL
} tc_gpu_mailboxes;

int tc_gpu_rmsnorm(tc_gpu_stream stream, const float *x, const float *multiplier, uint32_t n, uint32_t dim,
                   float eps, float *y);
int tc_gpu_add(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_row_args *args);
// boxes NULL: nothing to wait for.
int tc_gpu_combine(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_row_args *args,
                   const tc_gpu_mailboxes *boxes);
// dev.h's heads, for matrices of 16 and 32 bits.
typedef struct tc_gpu_heads {
    tc_gpu_type type;
    const void *data;
    uint32_t heads, rows, cols, copied;
    const float *x;
    uint32_t ldx, head_x;
    float *y;
    uint32_t ldy, head_y;
} tc_gpu_heads;
int tc_gpu_heads_run(tc_gpu_stream stream, const tc_gpu_heads *args, uint32_t n);
int tc_gpu_expert_bias(tc_gpu_stream stream, const float *bias, const uint32_t *expert, const float *weight,
                       uint32_t n, uint32_t top_k, uint32_t dim, float *out);
int tc_gpu_silu_mul(tc_gpu_stream stream, const float *gate, const float *up, size_t count, float *out);

// ---- the batch, as kernels see it ----
typedef struct tc_gpu_segment {
    uint32_t first, tokens, position, slot, pages_at; // pages_at: index of its first page in `pages`
    uint32_t keep_after[2], keep_slot[2];             // tc_segment.keep
} tc_gpu_segment;

typedef struct tc_gpu_batch {
    const tc_gpu_segment *segments;
    const uint32_t *segment; // [tokens]
    const uint32_t *position;
    const uint32_t *pages;
    uint32_t tokens, segment_count; // of the launch
} tc_gpu_batch;

// ---- attention (attention.cu) ----
typedef struct tc_gpu_attention {
    float *q;
    const float *k, *v;
    uint32_t q_stride; // floats from one query head to the next
    bool gated;
    const float *q_norm, *k_norm;
    float *out; // [n][heads][value_dim]
    uint32_t heads, kv_heads, dim, padded, rotary, rotary_at, kv_layer, kv_layers;
    uint32_t value_dim; // of `out`
    bool latent;        // values are the first value_dim of keys, which alone are kept; k_norm is over them
    bool interleaved;   // pairs (2i, 2i + 1) are rotated
    uint32_t window;    // positions a token sees; 0: all
    const float *sinks; // [heads] or NULL
    const float *inverse_frequency;
    float eps, k_eps, amplitude, clip, scale; // scale: of the scores
    void *kv;                                 // f16 pages
    void *q_half;                             // [n][heads][padded] f16
    float *partial, *state; // split: [tokens][kv_heads][chunks][group][padded], and max and sum
    uint32_t chunks_max;    // split: chunks of the longest session
    bool split;             // each segment has one token
    uint32_t blocks;        // not split: row blocks
    const uint32_t *block_segment, *block_row; // [blocks]
} tc_gpu_attention;
enum { TC_GPU_ATTENTION_ROWS = 64 }; // rows (token, head of a group) of a row block
enum { TC_GPU_WIDE_DIM_MAX = 1024 };
// Heads of more dimensions, or more of them to a KV head, than
// the tensor cores are used for here.
int tc_gpu_attention_wide(tc_gpu_stream stream, const tc_gpu_batch *batch, const tc_gpu_attention *args);
int tc_gpu_attention_run(tc_gpu_stream stream, const tc_gpu_batch *batch, const tc_gpu_attention *args);

// ---- Gated DeltaNet (delta.cu) ----
typedef struct tc_gpu_span {
    uint32_t first, step;
} tc_gpu_span;

typedef struct tc_gpu_delta {
    tc_gpu_span q_at, k_at, v_at, z_at, b_at, a_at; // as tc_delta_args
    const float *qkvz, *ba, *conv, *neg_exp_a, *dt_bias, *norm;
    float *out, *states;
    size_t slot_floats, layer_at; // of a slot; where the layer's state begins in it
    uint32_t key_heads, value_heads, dk, dv, taps;
    float eps;
    // many tokens of a segment
    float *q, *k;   // [n][key_heads][dk padded to 16]
    float *v;       // [n][value_heads][dv]
    float *scalars; // [n][value_heads][kq, decay, beta, 0]
    bool one_each;  // each segment has one token
} tc_gpu_delta;
int tc_gpu_delta_run(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_batch *batch,
                     const tc_gpu_delta *args);

// ---- routing and experts ----
typedef struct tc_gpu_routes {
    const float *logits; // [n][experts]
    uint32_t n, experts, top_k;
    bool sigmoid, renormalise;
    const float *correction;     // sigmoid: added for the choice, or NULL
    uint32_t groups, top_groups; // sigmoid; 0: none
    float scale;
    const uint32_t *forced; // [n][top_k] replaces the choice, for benchmarks; weights are those of the logits
    uint32_t *expert;
    float *weight;
    // Looking ahead: the next layer's router on the same tokens; logits NULL: not.
    const float *next_logits, *next_correction;
    const uint32_t *next_forced;
    uint32_t *next_expert;
    // What was expected of this layer, and fetched; NULL: nothing.
    const uint32_t *guess;
    tc_gpu_ahead *ahead;
    tc_gpu_sums *sums;
} tc_gpu_routes;
enum { TC_GPU_GROUPS_MAX = 64 };
int tc_gpu_route(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_routes *args);

// How one layer's experts lie in a slot or a staging buffer.
typedef struct tc_gpu_expert_layout {
    uint64_t expert_stride, unit_stride;
    uint64_t tiles_at[3], codes_at[3], data_at[3]; // from the unit's start, of gate, up, down
    float step[3];
    uint32_t stride[3]; // nested stride; 0: float32 scales at data_at
    uint32_t book[3][4];
    uint32_t units, hidden, top_k;
    uint64_t bias_at; // of the unit's biases, gate's 64 and up's; 0: none
    bool clamped;     // the activation: tc_clamped_mul, else SiLU
    float alpha, limit;
} tc_gpu_expert_layout;

// Cold experts that the card fetches out of host memory for one step, so that link and workers share them.
typedef struct tc_gpu_fetch {
    const uint8_t *const *from; // [experts] where each expert of the layer lies in host memory
    const uint8_t *quota;    // [TC_GPU_FETCH_DISTINCT_MAX + 1] of so many distinct cold experts, how many are
                             // fetched; NULL: none
    uint8_t *stage;          // room for TC_GPU_FETCH_MAX of them
    tc_gpu_fetch_list *list; // of this layer; NULL: nothing is computed here
    const uint8_t **at; // [n][top_k] where the pair's expert lies: a slot, the stage, or NULL: a worker's
    tc_gpu_sums *sums;
    uint64_t bytes;             // of an expert
    tc_gpu_ahead *ahead;        // what was fetched ahead of this layer, to ahead_stage; NULL: nothing
    const uint8_t *ahead_stage; // TC_GPU_AHEAD_MAX experts
    bool beside; // the kernel that fetched them fetches the quota, too; who reads experts waits for each
    // What is to be fetched ahead of the next one: its experts' places, and what is expected; NULL: nothing.
    const uint8_t *const *next_place;
    const uint32_t *next_expert; // [n][top_k]
    tc_gpu_ahead *next_ahead;
} tc_gpu_fetch;

typedef struct tc_gpu_hot {
    tc_gpu_expert_layout layout;
    const uint8_t *const *place; // [experts] where each expert of the batch lies in VRAM, or NULL
    const uint32_t *expert;      // [n][top_k]
    const float *weight;
    const float *x; // [n][hidden]
    uint32_t n;
    uint8_t *h_rounded; // [n * top_k][units][TC_GPU_ROW_BYTES]
    float *h_scale;     // [n * top_k][units]
    int64_t *sum;       // [n][hidden] overwritten
    uint32_t *broken;   // set when a part is not finite or out of range
    // Experts that may be on their way still, and where they come to; ahead NULL: all are there.
    const tc_gpu_ahead *ahead;
    const uint8_t *ahead_stage, *also_stage;
    uint64_t bytes; // of an expert there
} tc_gpu_hot;
// The hot ones of few tokens: two launches.
int tc_gpu_hot_run(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_hot *args);

typedef struct tc_gpu_pairs_in {
    const uint8_t *const
        *place; // [experts] where each expert of the layer lies in VRAM, or NULL; NULL: all are cold
    const uint32_t *expert;  // [n][top_k]
    const float *weight, *x; // [n][top_k], [n][hidden]
    uint32_t n, top_k, hidden;
} tc_gpu_pairs_in;
// A kernel that runs beside a whole pass: layer by layer, when the list is there, it fetches what is expected
// until the routes are known, then what the layer's quota says.
typedef struct tc_gpu_beside {
    tc_gpu_ahead *ahead;        // [layers]
    const uint8_t *const *from; // [layers][experts]
    const uint64_t *bytes;      // [layers] of an expert; 0: nothing is expected of the layer
    uint32_t layers, experts;
    uint8_t *stage[2];   // of layers by turns, TC_GPU_AHEAD_MAX experts each
    uint8_t *also_stage; // of the quota; NULL: it is fetched by tc_gpu_post
    tc_gpu_sums *sums;
} tc_gpu_beside;
int tc_gpu_beside_run(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_beside *args);
// Deals out the pairs: hot ones stay here, of the cold ones some are to be fetched, the rest goes to the
// mailboxes. Then fetches: two launches, or one where nothing may be fetched.
int tc_gpu_post(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_mailboxes *boxes,
                const tc_gpu_fetch *fetch, const tc_gpu_pairs_in *pairs);

// Many tokens. The pairs sorted by expert: begin [experts + 1], token and weight [n * top_k].
typedef struct tc_gpu_pairs {
    uint32_t *begin, *fill, *token;
    float *weight;
} tc_gpu_pairs;
int tc_gpu_sort_pairs(tc_gpu_stream stream, const uint32_t *expert, const float *weight, uint32_t n,
                      uint32_t top_k, uint32_t experts, const tc_gpu_pairs *pairs);

typedef struct tc_gpu_grouped {
    tc_gpu_expert_layout layout;
    const uint8_t *const *place; // [experts] those that lie somewhere are computed, if base is NULL
    const uint8_t *base;         // else those that do not: expert e lies at base + (e - first) stride
    uint32_t first,
        count; // experts [first, first + count) of the layer are computed, those that lie somewhere
    tc_gpu_pairs pairs;
    uint32_t n;
    const uint8_t *x_rounded;
    const float *x_scale;
    uint8_t *h_rounded; // [pairs][units][TC_GPU_ROW_BYTES]
    float *h_scale;
    int64_t *sum; // [n][hidden] added to
    uint32_t *broken;
    uint32_t blocks; // multiprocessors
} tc_gpu_grouped;
int tc_gpu_grouped_run(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_grouped *args);

// ---- prompts that workers share (prompt.cu) ----
enum { TC_GPU_MARKED_MAX = 4096 };
typedef struct tc_gpu_marks {
    const uint8_t **place; // [experts] becomes `mark` where the expert's bit is set, else NULL
    const uint8_t *mark;
    uint32_t experts, bits[TC_GPU_MARKED_MAX / 32];
} tc_gpu_marks;
int tc_gpu_mark(tc_gpu_stream stream, const tc_gpu_marks *args);
// posted [TC_GPU_MAILBOXES_MAX] becomes the bits.
int tc_gpu_tell_posted(tc_gpu_stream stream, uint32_t *posted, uint32_t bits);

// ---- rows of logits (sample.cu) ----
enum { TC_GPU_FEW_MAX = 1024, TC_GPU_FEW_BLOCKS = 64, TC_GPU_FEW_BUCKETS = 512 };
typedef struct tc_gpu_top2 {
    float first, second;
    uint32_t id; // of the first
} tc_gpu_top2;
// As tc_few (dev.h), with its tokens.
typedef struct tc_gpu_few_row {
    double sum;
    uint32_t best, count;
    float gap, max;
    struct {
        float logit;
        uint32_t id;
    } token[TC_GPU_FEW_MAX];
} tc_gpu_few_row;
typedef struct tc_gpu_few {
    const float *logits; // [rows][vocab]
    uint32_t rows, vocab;
    const float *temperature; // [rows]
    tc_gpu_top2 *top2;        // [rows][TC_GPU_FEW_BLOCKS]
    double *sums;             // [rows][TC_GPU_FEW_BLOCKS]
    uint32_t *buckets;        // [rows][TC_GPU_FEW_BUCKETS]
    tc_gpu_few_row *out;      // [rows]
} tc_gpu_few;
// warm: some temperature is above 0.
int tc_gpu_few_run(tc_gpu_stream stream, const tc_gpu_few *args, bool warm);

#ifdef __cplusplus
}
#endif
