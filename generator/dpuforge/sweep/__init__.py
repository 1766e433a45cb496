"""Many runs of one spec: variants that share what they have in common, and a judge that tells skill from luck."""
