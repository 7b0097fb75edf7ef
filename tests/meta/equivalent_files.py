"""Mutants outside the rules that change nothing that can be seen, each with the reason (see mutate.py)."""

PROOFS: dict[str, list[str]] = {
    "on POSIX the condition never holds": [
        "tensorlite/files.py: _fsync_folder: os.name != 'posix'  ->  os.name != os.name",
    ],
    "before it has begun there is nothing to undo, and a run that is there keeps its lock": [
        "gpt/training/open_run.py: create: place.begun and place.folder == run and is_run(run)  ->  place.folder == run and is_run(run)",
    ],
    "the list of files is written again as it is": [
        "gpt/training/open_run.py: resume: if mine is None or not {*names} <= {*mine}  ->  if True",
    ],
    "only a moment that falls on the limit to the last bit of the clock": [
        "gpt/training/progress.py: Progress.step: time.monotonic() - self.drawn > REFRESH  ->  time.monotonic() - self.drawn >= REFRESH",
    ],
    "POSIX ends lines with \\n anyway": [
        "gpt/training/report.py: append_sample: open(path, 'a', encoding='utf-8', newline='\\n')  ->  open(path, 'a', encoding='utf-8')",
    ],
    "how much at once is a matter of memory": [
        "gpt/data/shards/encoding.py: BATCH: 1  ->  2",
        "gpt/fingerprint.py: fingerprint: 20  ->  21",
    ],
    "the same exceptions, in another order": [
        "gpt/tasks/instruct/judge.py: Api.exchange: (OSError, http.client.HTTPException)  ->  (http.client.HTTPException, OSError)",
    ],
    "a length in pixels, on which no other one depends": [
        "gpt/look/charts.py: (WIDTH, HEIGHT, LEFT, BOTTOM): 280  ->  281",
        "gpt/look/charts.py: category_chart: 160  ->  159",
        "gpt/look/charts.py: scatter: 60  ->  61",
        "gpt/look/gradient.py: group_map: 24  ->  23",
    ],
    "lists that are made of the same steps have the same length": [
        "gpt/look/learning.py: LearnStep._pictures: True  ->  False (place 2)",
    ],
    "of two axes the last one is axis 1": [
        "gpt/look/lens.py: probability_and_rank: -1  ->  1",
    ],
    "a line in the background through the lowest and the highest loss of each step, in either order": [
        "gpt/look/run_list.py: Run.lines: ((s, low), (s, high))  ->  ((s, high), (s, low))",
    ],
    "which of two wrong values is named first": [
        "gpt/training/settings.py: Settings.__post_init__: ('weight_decay', 'clip')  ->  ('clip', 'weight_decay')",
    ],
    "how many texts at once is a matter of time and memory": [
        "gpt/cli/classify.py: BATCH: 16  ->  15",
    ],
    "only a switch is given in one word without a value": [
        "gpt/cli/flags.py: without_defaults: one.flag.kind == 'switch'  ->  one.flag.kind == one.flag.kind",
    ],
    "the address is the same for every type of socket": [
        "gpt/cli/look.py: listen: socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)  ->  socket.getaddrinfo(host, 0)",
    ],
    "the process ends, which closes it": [
        "gpt/cli/main.py: discard_output: os.close(null)  ->  pass",
    ],
    "a file that is read as a whole has no field of a gigabyte": [
        "gpt/data/records.py: _rows: 31  ->  30",
    ],
    "a name for type checkers": [
        "gpt/data/shards/documents.py: Item: Piece | Skipped  ->  Piece",
    ],
    "a time that was found by measuring, of which a nanosecond cannot be measured": [
        "gpt/fast/divided_step.py: WORTH_DIVIDING: 5000000  ->  5000001",
    ],
    "it has been checked to be an int: for type checkers": [
        "gpt/serve/requests.py: Fields.integer: int(value)  ->  value",
    ],
    "any number but 0 switches an option of a socket on": [
        "gpt/serve/server.py: Protocol.connection_made: 1  ->  2",
    ],
    "to abort a connection that is lost does nothing": [
        "gpt/serve/server.py: Protocol.connection_lost: stop(self.arrival)  ->  pass",
    ],
    "the largest width of a column of names, which are shorter": [
        "gpt/cli/show.py: section: 34  ->  33",
    ],
    "tyro asks what has a type only where several are possible, and no flag has several": [
        "gpt/cli/parsing.py: _value: 0  ->  1 (place 4)",
    ],
    "every part of a line is cut to a shorter length before": [
        "gpt/data/download.py: Transfer.say: 1000  ->  1001",
    ],
    "the parts of a size add up to it whatever number the first row has": [
        "gpt/data/shards/documents.py: _parquet: 0  ->  1",
    ],
    "what is buffered is returned, whatever number is asked for": [
        "gpt/data/shards/inputs.py: opened: 4  ->  5",
    ],
    "any number below 0 says that no group has begun": [
        "gpt/data/shards/order.py: ShuffledWindows.__init__: 1  ->  2 (place 2)",
    ],
    "a random seed of a larger range is random too": [
        "gpt/serve/openai/decoding.py: Scores.__init__: 32  ->  33",
    ],
    "the distance of two numbers, whichever is subtracted": [
        "tensorlite/testing/compare.py: Elements.unsure: self.got - self.expected  ->  self.expected - self.got",
    ],
    "a margin in an estimate of rounding errors that is uncertain by more than the change": [
        "tensorlite/testing/differences.py: (WIDER, FINER): 26  ->  27",
        "tensorlite/testing/differences.py: _extrapolated: 4  ->  3",
        "tensorlite/testing/invariants.py: _explained: 10  ->  11",
    ],
    "nine places at irregular distances either way: on sin, exp and sqrt, rounded, the median of the estimate is the same": [
        "tensorlite/testing/noise.py: PLACES: 1.83  ->  2.83",
    ],
    "as an unsigned number each is larger than any memory": [
        "tensorlite/devices/machine.py: keep_freed_memory: 1  ->  2 (place 2)",
    ],
    "how long a wait sleeps is a matter of time": [
        "tensorlite/distributed.py: World.wait: 200  ->  201",
    ],
    "how many lines are held at once is a matter of memory": [
        "tensorlite/testing/differences.py: richardson: 4  ->  5",
    ],
    "the name of a type is not looked at when the code runs": [
        "tensorlite/testing/invariants.py: Gradients: (int, np.ndarray)  ->  (np.ndarray, int)",
    ],
    "a number of NumPy's is compared, and converted by math.hypot, as Python's is": [
        "tensorlite/testing/invariants.py: _largest: float(x[np.isfinite(x)].max(initial=0))  ->  x[np.isfinite(x)].max(initial=0)",
        "tensorlite/optim/clipping.py: grad_norm: float(to_host(compute_norm(grads)))  ->  to_host(compute_norm(grads))",
    ],
    "a number of the array's own dtype changes no dtype, and NumPy gives the position as Python's int": [
        "tensorlite/random.py: Generator.normal: float(dtype.type(mean))  ->  dtype.type(mean)",
        "tensorlite/random.py: Generator.state_dict: int(twister['pos'])  ->  twister['pos']",
    ],
    "NumPy takes any negative length for the one to be found": [
        "tensorlite/random.py: Generator.multinomial: 1  ->  2 (place 2)",
    ],
    "the values of a dict are gone through as a list is": [
        "tensorlite/testing/points.py: point: list(held.values())  ->  held.values()",
    ],
    "there is a gradient for each argument": [
        "tensorlite/testing/properties.py: _check_backward: True  ->  False (place 2)",
    ],
    "which argument has the other precision is a matter of chance": [
        "tensorlite/testing/properties.py: float32: 2  ->  3 (place 2)",
    ],
    "u and v differ for each argument either way, and the sum sees a part that is not symmetric": [
        "tensorlite/testing/properties.py: symmetry: 2  ->  3 (place 2)",
    ],
    "64 elements may be drawn one by one or by a seed": [
        "tensorlite/testing/strategies.py: smooth: total > MANY  ->  total >= MANY",
    ],
    "how many token ids are checked at once is a matter of memory": [
        "tensorlite/data/token_file.py: CHUNK: 20  ->  21",
    ],
    "on a machine of little endian both are the same dtype": [
        "tensorlite/io.py: Entry._array: dtype.itemsize == 1 or sys.byteorder == 'little'  ->  dtype.itemsize == 1 and sys.byteorder == 'little'",
    ],
    "the least of some numbers, in another order": [
        "tensorlite/devices/machine.py: cpu_quota: (folder, *inside)  ->  (*inside, folder)",
    ],
    "float32 is updated in float32 either way": [
        "tensorlite/optim/optimizers.py: compute_dtype: 4  ->  5",
    ],
    "set again when a backward pass begins": [
        "tensorlite/accelerate/reduce.py: Bucket.__init__: self.left = set(members)  ->  pass",
    ],
    "only the shape and the dtype of the gradient are read": [
        "tensorlite/accelerate/storage.py: FlatGroup._update_blocks: g  ->  0 * g + 1",
    ],
    "a distance of a drawing in pixels, and a weight by which it is fitted": [
        "tensorlite/inspect/drawing.py: (LINE, PAD, GAP, BETWEEN_ROWS, MARGIN): 16  ->  17",
        "tensorlite/inspect/drawing.py: _Layout._tension: 12.0  ->  13.0",
        "tensorlite/inspect/drawing.py: _Layout._tension: self.row[number] != row  ->  self.row[number] == self.row[number]",
    ],
    "at this limit, which comes from measured times, both ways take the same time": [
        "tensorlite/kernels/cpu/onednn.py: is_worthwhile: M * N * K >= 1 << 22  ->  M * N * K > 1 << 22",
    ],
    "NumPy multiplies bfloat16 and float32 as float32": [
        "tensorlite/kernels/cuda/blas.py: _by_library: a.astype(float32, copy=False)  ->  a",
    ],
    "the memory has the same size, and the kernel computes the places in it": [
        "tensorlite/kernels/cuda/embedding.py: embedding_vjp: (2 * N // PIECE + 1, C)  ->  (C, 2 * N // PIECE + 1)",
        "tensorlite/kernels/cuda/layers.py: layer_norm: (n, C)  ->  (C, n)",
        "tensorlite/kernels/cuda/layers.py: layer_norm_vjp: (groups, 2 * C)  ->  (2 * C, groups)",
    ],
    "blocks without a column end at once, and into how many groups the rows are divided is a matter of time": [
        "tensorlite/kernels/cuda/layers.py: column_sums: 32 * w  ->  w",
        "tensorlite/kernels/cuda/layers.py: column_sums: 32  ->  33 (place 2)",
    ],
    "all three have one stride, whichever it is compared with": [
        "tensorlite/kernels/cuda/decode.py: attend: 0  ->  1 (place 2)",
    ],
    "how many threads share a head is a matter of time": [
        "tensorlite/kernels/cuda/decode.py: attend: B * H <= MANY_HEADS  ->  B * H == B * H",
    ],
    "a copy is made that is not needed": [
        "tensorlite/kernels/cuda/layers.py: gelu_vjp: False  ->  True",
    ],
    "cuDNN gives three gradients": [
        "tensorlite/kernels/cuda/sdpa.py: describe_backward: True  ->  False",
    ],
    "pybind11 converts any sequence to a std::vector": [
        "tensorlite/kernels/cuda/sdpa.py: _tensor: list(x.shape)  ->  x.shape",
        "tensorlite/kernels/cuda/sdpa.py: _tensor: list(x.strides)  ->  x.strides",
    ],
    "all threads of a team have the same mean": [
        "tensorlite/kernels/cuda/layers.cu: layer_norm: if (threadIdx.x % team == 0) {: 0  ->  1",
    ],
    "a longer array than the kernel uses": [
        "tensorlite/kernels/cuda/layers.cu: layer_norm_vjp: float dweight[V / W][W] = {}, dbias[V / W][W] = {};: /  ->  * (place 2)",
    ],
    "0 either way": [
        "tensorlite/kernels/cuda/softmax.cu: masked_softmax: int end = causal && seen < S ? (seen > 0 ? seen : 0) : S;: >  ->  >=",
    ],
    "key and value are found three columns after the query, not by these names": [
        "tensorlite/kernels/cpu/numba_decode.py: (NORM1, QUERY, KEY, VALUE, OUT, NORM2, EXPAND, CONTRACT, KEYS, VALUES): 5  ->  6",
    ],
    "a counter more, which nothing uses": [
        "tensorlite/kernels/cpu/numba_decode.py: PHASES: 7  ->  8",
    ],
    "any number that is not one of the other two": [
        "tensorlite/kernels/cpu/numba_decode.py: (PLAIN, GELU, ADD): 2  ->  3",
    ],
    "how fast it is, and how long it compiles, is a matter of time": [
        "tensorlite/kernels/cpu/numba_decode.py: let_others_run: builder.call(builder.inttoptr(args[0], ir.PointerType(function)), ())  ->  pass",
        "tensorlite/kernels/cpu/numba_decode.py: normalize: not_inlined()  ->  pass",
        "tensorlite/kernels/cpu/numba_decode.py: product: not_inlined()  ->  pass",
        "tensorlite/kernels/cpu/numba_decode.py: compiled: njit(nogil=True, cache=True, error_model='numpy', fastmath=ANY_ORDER)  ->  njit(nogil=True, cache=True, error_model='numpy')",
    ],
    "how many rows a thread takes at a time is a matter of time": [
        "tensorlite/kernels/cpu/numba_decode.py: product: 4  ->  3 (place 3)",
        "tensorlite/kernels/cpu/numba_decode.py: product: chunk // K  ->  K",
    ],
    "gelu writes as many elements as it reads": [
        "tensorlite/kernels/cpu/numba_decode.py: product: begin:end  ->  begin: (place 6)",
    ],
    "the first column is 0": [
        "tensorlite/kernels/cpu/numba_decode.py: step: LAST_NORM:  ->  :",
        "tensorlite/kernels/cpu/numba_decode.py: step: NORM1:  ->  :",
    ],
    "the step is made anew of the same arrays": [
        "gpt/fast/cpu_decode.py: CPUDecoder.logits: if not all((p.data is array for p, array in zip(self.parameters, self.arrays, strict=True)))  ->  if True",
    ],
    "the texts of a batch are read together, so that none or all of them have a length above 0": [
        "gpt/fast/cpu_decode.py: CPUDecoder.reads_one: max(first.lengths)  ->  min(first.lengths)",
    ],
    "how many weights are worth the import of numba is a matter of time": [
        "tensorlite/kernels/cpu/decode.py: MIN_WEIGHTS: 1 << 18  ->  18",
    ],
}
EQUIVALENT = {key: proof for proof, keys in PROOFS.items() for key in keys}
# As in equivalent.py: of each op its source (`Mutant.hash`) when its proofs were read last.
READ = {
    "tensorlite/files.py: _fsync_folder": "ad00d7d73a",
    "gpt/training/open_run.py: create": "d0224dd8dd",
    "gpt/training/open_run.py: resume": "d19da017d0",
    "gpt/training/progress.py: Progress.step": "295f4a013c",
    "gpt/training/report.py: append_sample": "b7a9771cbd",
    "gpt/data/shards/encoding.py: BATCH": "ecab2b5005",
    "gpt/fingerprint.py: fingerprint": "e44ad3f36f",
    "gpt/tasks/instruct/judge.py: Api.exchange": "46334e11b9",
    "gpt/look/charts.py: (WIDTH, HEIGHT, LEFT, BOTTOM)": "b5c9fb07eb",
    "gpt/look/charts.py: category_chart": "9a12228a37",
    "gpt/look/charts.py: scatter": "e29630247d",
    "gpt/look/gradient.py: group_map": "9860c27c57",
    "gpt/look/learning.py: LearnStep._pictures": "9c41ce4236",
    "gpt/look/lens.py: probability_and_rank": "457112181f",
    "gpt/look/run_list.py: Run.lines": "8d927cfe19",
    "gpt/training/settings.py: Settings.__post_init__": "808c34841f",
    "gpt/cli/classify.py: BATCH": "ec387ce123",
    "gpt/cli/flags.py: without_defaults": "023bc43e89",
    "gpt/cli/look.py: listen": "b82a32b734",
    "gpt/cli/main.py: discard_output": "6d51b160a5",
    "gpt/data/records.py: _rows": "7b3971372b",
    "gpt/data/shards/documents.py: Item": "68b6400546",
    "gpt/data/shards/documents.py: _parquet": "e0fc0260b6",
    "gpt/fast/divided_step.py: WORTH_DIVIDING": "c7838f80ad",
    "gpt/serve/requests.py: Fields.integer": "0c49363ed5",
    "gpt/serve/server.py: Protocol.connection_made": "44660d615b",
    "gpt/serve/server.py: Protocol.connection_lost": "b9a40aa53d",
    "gpt/cli/show.py: section": "cee0eafc83",
    "gpt/cli/parsing.py: _value": "e91c942b7d",
    "gpt/data/download.py: Transfer.say": "de0a828964",
    "gpt/data/shards/inputs.py: opened": "3b2ee9e846",
    "gpt/data/shards/order.py: ShuffledWindows.__init__": "8bffa0879f",
    "gpt/serve/openai/decoding.py: Scores.__init__": "88cab79f00",
    "tensorlite/testing/compare.py: Elements.unsure": "955cd0cf3b",
    "tensorlite/testing/differences.py: (WIDER, FINER)": "920acd1bf0",
    "tensorlite/testing/differences.py: _extrapolated": "f3e1db72d2",
    "tensorlite/testing/differences.py: richardson": "a7ea2047b2",
    "tensorlite/testing/invariants.py: _explained": "1775b13024",
    "tensorlite/testing/invariants.py: Gradients": "5bb1a6f687",
    "tensorlite/testing/invariants.py: _largest": "2085845f2b",
    "tensorlite/testing/noise.py: PLACES": "9740376e95",
    "tensorlite/devices/machine.py: keep_freed_memory": "671e2df0dc",
    "tensorlite/devices/machine.py: cpu_quota": "72f080272a",
    "tensorlite/distributed.py: World.wait": "286d62450b",
    "tensorlite/optim/clipping.py: grad_norm": "73719d0482",
    "tensorlite/random.py: Generator.normal": "7ab1c9ba47",
    "tensorlite/random.py: Generator.state_dict": "d648f47438",
    "tensorlite/random.py: Generator.multinomial": "d9c23a43a6",
    "tensorlite/testing/points.py: point": "f9bd90fde6",
    "tensorlite/testing/properties.py: _check_backward": "52d89fdf56",
    "tensorlite/testing/properties.py: float32": "f44bc89747",
    "tensorlite/testing/properties.py: symmetry": "5eb24b195f",
    "tensorlite/testing/strategies.py: smooth": "590d1c6dbf",
    "tensorlite/data/token_file.py: CHUNK": "f89840d70b",
    "tensorlite/io.py: Entry._array": "39506cb373",
    "tensorlite/optim/optimizers.py: compute_dtype": "8a46f90431",
    "tensorlite/accelerate/reduce.py: Bucket.__init__": "93a10ef8e4",
    "tensorlite/accelerate/storage.py: FlatGroup._update_blocks": "2fcf74a84c",
    "tensorlite/inspect/drawing.py: (LINE, PAD, GAP, BETWEEN_ROWS, MARGIN)": "f1264e0542",
    "tensorlite/inspect/drawing.py: _Layout._tension": "66918f86bf",
    "tensorlite/kernels/cpu/onednn.py: is_worthwhile": "b737f8e4b9",
    "tensorlite/kernels/cuda/blas.py: _by_library": "a97cdb8459",
    "tensorlite/kernels/cuda/embedding.py: embedding_vjp": "6d3f0a57ab",
    "tensorlite/kernels/cuda/layers.py: layer_norm": "e42f6b80d2",
    "tensorlite/kernels/cuda/layers.py: layer_norm_vjp": "ad211e1be8",
    "tensorlite/kernels/cuda/layers.py: column_sums": "0433bd6be7",
    "tensorlite/kernels/cuda/layers.py: gelu_vjp": "6c151c806a",
    "tensorlite/kernels/cuda/decode.py: attend": "b3bcd11cb9",
    "tensorlite/kernels/cuda/sdpa.py: describe_backward": "8df474f596",
    "tensorlite/kernels/cuda/sdpa.py: _tensor": "815b751c47",
    "tensorlite/kernels/cuda/layers.cu: layer_norm": "906f4b2231",
    "tensorlite/kernels/cuda/layers.cu: layer_norm_vjp": "bf9cbd436e",
    "tensorlite/kernels/cuda/softmax.cu: masked_softmax": "639f57547c",
    "tensorlite/kernels/cpu/numba_decode.py: (NORM1, QUERY, KEY, VALUE, OUT, NORM2, EXPAND, CONTRACT, KEYS, VALUES)": "4e88560350",
    "tensorlite/kernels/cpu/numba_decode.py: PHASES": "5ed69583fe",
    "tensorlite/kernels/cpu/numba_decode.py: (PLAIN, GELU, ADD)": "dc8a730d33",
    "tensorlite/kernels/cpu/numba_decode.py: compiled": "a3df199dc0",
    "tensorlite/kernels/cpu/numba_decode.py: product": "7465e4448a",
    "tensorlite/kernels/cpu/numba_decode.py: normalize": "5d0d1301e8",
    "tensorlite/kernels/cpu/numba_decode.py: let_others_run": "aed23702e0",
    "tensorlite/kernels/cpu/numba_decode.py: step": "5fa1944d52",
    "gpt/fast/cpu_decode.py: CPUDecoder.logits": "8aa92b775e",
    "gpt/fast/cpu_decode.py: CPUDecoder.reads_one": "a93c40b70b",
    "tensorlite/kernels/cpu/decode.py: MIN_WEIGHTS": "964fc40783",
}
