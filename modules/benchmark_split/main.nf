include { options } from '../shell'

// Parts of the mosaic hidden, as the paper's experiments hide them: a folder a split, and which method runs on which
process BENCHMARK_SPLIT {
    label 'process_low'
    label 'image_cuda'

    input:
    path mosaic
    val settings // [ labels, experiments, methods, unpaired_rates, seeds ]

    output:
    path 'splits/*', type: 'dir', arity: '1..*', emit: tasks // task.json, mosaic.h5mu, cells.tsv, hidden/<modality>.txt
    path 'splits/plan.tsv', emit: plan
    path '*.resources.json', emit: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions

    script:
    """
    multivi-nf-benchmark-split --resources benchmark_split.resources.json ${mosaic} ${options(settings)} --output=splits
    """

    stub:
    """
    mkdir -p splits/1.stub.0/hidden
    echo '{"experiment": 3, "seed": 0, "methods": ["multivi-nf", "ridge", "mofa", "seurat-wnn"], "variants": {}, "hidden": ["rna"], "target": null}' > splits/1.stub.0/task.json
    touch splits/1.stub.0/mosaic.h5mu splits/1.stub.0/cells.tsv splits/1.stub.0/hidden/rna.txt splits/plan.tsv
    echo '{}' > benchmark_split.resources.json
    """
}
