"""Architectures at the widths they were published with; weights are random where speed is asked."""

DOWN, ATTN_DOWN = "DownEncoderBlock2D", "AttnDownEncoderBlock2D"
UP, ATTN_UP = "UpDecoderBlock2D", "AttnUpDecoderBlock2D"


def plain(levels):
    return {"down_block_types": (DOWN,) * levels, "up_block_types": (UP,) * levels}


def attending_last(levels):
    return {
        "down_block_types": (DOWN,) * (levels - 1) + (ATTN_DOWN,),
        "up_block_types": (ATTN_UP,) + (UP,) * (levels - 1),
    }


PUBLISHED = {
    # kandinsky-community/kandinsky-2-1 movq
    "MoVQ f8": {
        "block_out_channels": (128, 256, 256, 512),
        **attending_last(4),
        "layers_per_block": 2,
        "latent_channels": 4,
        "num_vq_embeddings": 16_384,
        "vq_embed_dim": 4,
        "norm_type": "spatial",
    },
    # amused/amused-256 vqvae
    "aMUSEd f16": {
        "block_out_channels": (128, 256, 256, 512, 768),
        **plain(5),
        "layers_per_block": 2,
        "latent_channels": 64,
        "num_vq_embeddings": 8192,
        "mid_block_add_attention": False,
        "lookup_from_codebook": True,
    },
    # CompVis/ldm-celebahq-256 vqvae
    "LDM f4": {
        "block_out_channels": (128, 256, 512),
        **plain(3),
        "layers_per_block": 2,
        "latent_channels": 3,
        "num_vq_embeddings": 8192,
    },
    # CompVis/taming-transformers vqgan_imagenet_f16_16384
    "taming f16": {
        "block_out_channels": (128, 128, 256, 256, 512),
        **attending_last(5),
        "layers_per_block": 2,
        "latent_channels": 256,
        "num_vq_embeddings": 16_384,
        "vq_embed_dim": 256,
    },
}
"""By name and downsampling factor."""
