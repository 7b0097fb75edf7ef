"""The OpenAI-compatible server: what requests mean, how text is written for them, and the form of the answers.

errors.py has OpenAI's form of errors, options.py the fields of a request, decoding.py writes text with stop strings and
log-probabilities, completions.py and chat.py prepare prompts and answers. The addresses are in routes/openai.py.
Reference: https://platform.openai.com/docs/api-reference (completions, chat, models).
"""
