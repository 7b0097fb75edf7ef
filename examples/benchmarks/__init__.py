"""Benchmarks of training and decoding against PyTorch and transformers: `python -m examples.benchmarks`.

One idea: duels. Absolute times depend on the machine; two programs that take turns on it can be compared with
each other. So each contestant runs in a process of its own with the same threads, weights and tokens, must have the
same loss and gradients (or the same tokens) before anything is timed, and then takes turns with its opponent. The
tables show medians over the turns. Peak memory is that of a process that runs only a few steps.

    python -m examples.benchmarks --configs tiny,char,gpt2 --peers torch --json FILE  training, all of torch's variants
    python -m examples.benchmarks --tasks decode --configs gpt2 --json FILE  batch 1, 8 and 32, against transformers
    python -m examples.benchmarks --tasks decode --configs gpt2 --peers transformers-bf16 --weights bfloat16 int8
    python -m examples.benchmarks --time-to 1.88 --text tinyshakespeare.txt --json FILE  nanoGPT's recipe for CPUs
    python -m examples.benchmarks --tasks overhead --json FILE  small ops, forward and backward
    python -m examples.benchmarks --tasks service --json FILE  labels, tokens, and the first token of a new process
    python -m examples.benchmarks --configs char --peers torch-bf16,torch-bf16-malloc --again --json FILE  some again
    python -m examples.benchmarks --device cuda --turns 5 --json FILE  a GPU: GPT-2, nano, micro, and decoding
    python -m examples.benchmarks --device cuda --configs gpt2 --tasks train --profile  time by kernel

"of the limit" is the time of a step's matrix products alone, by the faster of the two libraries, over the time of the
step: what a step would gain if all but its products cost nothing. Products between positions in attention do not count.

With --json each duel is written as soon as it ends, to FILE and as a table to FILE with .md; results in FILE are
not measured again, except with --again. A duel that fails (no C++ compiler for torch-compile) is a row with the reason.

Variants: torch-fp32 or torch-bf16 (autocast) with -compile, -malloc (glibc set to keep freed memory, as gpt does for
itself) or both; `torch` is all of them. They are compared with tensorlite in float32 or, for -bf16, with its products
in bfloat16. This needs the extras `peers`, and `bf16` for bfloat16.

On a GPU several peers are compared at once, and memory is the device's. There -tf32 is a third dtype, there is no
-malloc, and -graph is a whole training step, or a whole step of decoding, as one CUDA graph. --within SECONDS starts no
duel after that time. Gradients may differ from tensorlite's in float32 by 5 % in bfloat16, 1 % in TF32, 0.01 % in
float32.
"""
