include { options ; threads } from '../shell'

// One contrast: effects with credible intervals and a false discovery rate
process DIFFERENTIAL {
    tag "${contrast.contrast}"
    label 'process_low'
    label 'image_cuda'
    label 'process_gpu'

    input:
    tuple val(run), val(contrast), path(embedding), path(model) // contrast: [ contrast, modality, groupby, target, reference, cells, optional? ]
    val settings                                      // [ replicate, delta, fdr, seed, device ]

    output:
    tuple val(run), path("differential/*.tsv.gz"), emit: table
    tuple val(run), path('*.resources.json'), emit: cost, topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions

    script:
    def name = contrast.contrast
    """
    ${threads(task.cpus)}
    multivi-nf-differential --resources ${name}.differential.resources.json ${embedding} ${model} \\
        ${options(contrast.findAll { column, _value -> column != 'contrast' })} ${options(settings)} \\
        --output=differential/${name}.tsv.gz
    """

    stub:
    """
    mkdir differential
    touch differential/${contrast.contrast}.tsv.gz
    echo '{}' > ${contrast.contrast}.differential.resources.json
    """
}
