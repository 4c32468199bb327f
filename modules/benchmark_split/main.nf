include { options } from '../shell'

// Parts of the mosaic hidden, as one of the paper's experiments hides them: a folder a split. One seed and rate a task, and
// no word of methods: one more of any of them leaves the others' results cached.
process BENCHMARK_SPLIT {
    tag "${unit.values().join(' ')}"
    label 'process_low'
    label 'image_cuda'

    input:
    tuple path(mosaic), val(unit) // [ experiments: one, seeds: one, unpaired_rates?: one ]
    val settings                  // [ labels, most_types ]

    output:
    path 'splits/*', type: 'dir', arity: '0..*', emit: tasks // task.json, mosaic.h5mu, cells.tsv, hidden/<modality>.txt
    path 'splits/plan.tsv', emit: plan
    path '*.resources.json', topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions

    script:
    """
    multivi-nf-benchmark-split --resources benchmark_split.resources.json ${mosaic} ${options(unit + settings)} --output=splits
    """

    stub:
    """
    mkdir -p splits/1.stub.0/hidden
    echo '{"experiment": 3, "seed": 0, "methods": ["multivi-nf", "ridge", "mofa", "seurat-wnn"], "variants": {}, "defaults": false, "hidden": ["rna"], "target": null}' > splits/1.stub.0/task.json
    touch splits/1.stub.0/mosaic.h5mu splits/1.stub.0/cells.tsv splits/1.stub.0/hidden/rna.txt splits/plan.tsv
    echo '{}' > benchmark_split.resources.json
    """
}
