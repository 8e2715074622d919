"""What turns pixels into codes: networks behind one protocol, and the files they are published in.

tokenizer      the protocol; networks all that are behind it: vq (the VQ models of `vqpipe.vqgan`),
               titok, rqvae, var, as files: stored_network
families       which family a checkpoint is of, and what becomes of it; family_names all of them,
               a file each: family
naming         a family's names for the tensors of a VQ model; architecture what shapes say of it;
               ddconfig what CompVis' configs do; averages weights and their running averages
"""
