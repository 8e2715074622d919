"""What turns pixels into codes: networks behind one protocol, and the files they are published in.

tokenizer  the protocol; vq  the VQ models of `vqpipe.vqgan` behind it
taming     a family of checkpoints: its names, and what has to be done to its weights
"""
