"""Director and Shot Refiner (STAGE §4.3), and the language models behind them.

A client answers one kind of question: messages and pictures in, an object that was checked out. `rules` needs no
language model, `local` runs one with transformers, `endpoint` asks a server, and ComfyUI's text generation is
`comfyui.agents`. What a model writes is data: nothing in it is run, opened or called.
"""
