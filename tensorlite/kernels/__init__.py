"""Fast kernels for the ops that a GPT spends its time in, on NumPy's and CuPy's arrays. No autograd graph in here.

A kernel is a function on arrays with the arguments of its formula in formulas.py, and comes as three functions:

    supports_NAME(*arguments)         whether the kernel can compute these arrays; otherwise the formula does
    NAME(*arguments)                  the result, or (result, residuals): a dict of arrays that its derivative will need
    NAME_vjp(g, needs_grad, *asked)   the gradient of the loss with respect to each argument, given `g`, that with
                                      respect to the result; `needs_grad` has one bool for each argument, and where it
                                      is False the gradient may be None. `asked`: the arguments, residuals and result
                                      (`out`) that the rule's parameter names ask for

    table.py      which kernel computes which formula, one row for all devices
    shared.py     what the kernels of both devices have in common
    precision.py  the dtype of matrix products
    cpu/          kernels on NumPy's arrays
    cuda/         kernels on CuPy's arrays, imported when the first of them arrives
"""
