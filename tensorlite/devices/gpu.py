"""Information about a GPU: its name and versions, its memory, and the message when that is full."""

import os
import re

from ..backend import library_on


def about_device(device: str) -> dict[str, str]:
    """A device's name; for a GPU also its compute capability and the versions of CuPy, CUDA and the driver."""
    library, index = library_on(device)
    if library.__name__ != "cupy":
        return {"device": device}
    runtime, gpu = library.cuda.runtime, library.cuda.Device(index)
    capability = gpu.compute_capability  # "90"
    versions = {"CUDA runtime": runtime.runtimeGetVersion(), "CUDA driver": runtime.driverGetVersion()}  # 13000: 13.0
    return {
        "device": runtime.getDeviceProperties(gpu.id)["name"].decode(),
        "compute capability": f"{capability[:-1]}.{capability[-1]}",
        "CuPy": library.__version__,
        **{name: f"{number // 1000}.{number % 1000 // 10}" for name, number in versions.items()},
    }


def count() -> int:
    """The number of GPUs that this process can use."""
    library, _ = library_on("cuda")
    return int(library.cuda.runtime.getDeviceCount())


def memory(device: str) -> tuple[int, int] | None:
    """(free, total) bytes: of a GPU's memory, for "cpu" of the machine's; None where the system does not say."""
    library, index = library_on(device)
    if library.__name__ == "cupy":
        with library.cuda.Device(index):
            free, total = library.cuda.runtime.memGetInfo()
            return (
                free + library.get_default_memory_pool().free_bytes(),
                total,
            )  # what CuPy's pool holds can be used again
    if not hasattr(os, "sysconf"):  # Windows
        return None
    free = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"  # macOS counts all alone
    return os.sysconf(free) * os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def out_of_memory(error: BaseException) -> str:
    """For an out-of-memory error of a GPU: the requested and the free bytes; '' for any other error."""
    asked = re.search(r"Out of memory allocating ([\d,]+) bytes", str(error))
    if not (isinstance(error, MemoryError) and asked) and "cudaErrorMemoryAllocation" not in str(error):
        return ""
    size = f"{int(asked[1].replace(',', '')) / 2**30:,.2f} GiB were requested" if asked else "more was requested"
    try:
        free, total = memory("cuda") or (0, 0)
    except RuntimeError:  # nothing more can be learnt from it
        return f"the GPU is out of memory: {size}"
    return f"the GPU is out of memory: {size}, {free / 2**30:,.2f} of its {total / 2**30:,.2f} GiB are free"
