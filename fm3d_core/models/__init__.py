"""Networks: backbones, decoders and heads as plain modules, and the zoo that names them."""
