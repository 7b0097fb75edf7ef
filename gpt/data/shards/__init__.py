"""Text of any size: documents from files, folders and pipes as shards of token ids, and training on them.

    inputs.py     which files are read, and their bytes, decompressed
    documents.py  the documents in a file: whole texts, JSON lines, columns of CSV and Parquet
    encoding.py   documents to token ids, in several processes, in order
    folder.py     the folder of the shards: its manifest data.json, and which files may be replaced
    write.py      the loop of `gpt data prepare`, which continues after a kill
    read.py       the shards as one dataset, mapped into memory
    order.py      the shuffled order of windows

A document is never cut in two parts: it is training text or validation text as a whole. Its tokens are followed by
`<|endoftext|>`.
"""
