include { options ; threads } from '../shell'

// Every cell's place in the latent space, UMAP and clusters; contrasts on clusters are checked here
process EMBED {
    label 'process_medium'
    label 'image_cuda'
    label 'process_gpu'

    input:
    tuple val(run), path(mosaic), path(model)
    path contrasts, stageAs: 'contrasts/*'     // or []
    path marker_sets, stageAs: 'marker_sets/*' // or []
    path tss, stageAs: 'tss/*'                 // or []
    path gtf, stageAs: 'gtf/*'                 // or []
    val settings                               // [ cluster_resolution, labels, genome, chrom_style, seed, device ]

    output:
    tuple val(run), path('multivi.h5mu'), emit: embedding
    tuple val(run), path('chunks/*', arity: '1..*'), emit: chunks // [ file ]: names of the cells of one IMPUTE task
    tuple val(run), path('*.resources.json'), emit: cost, topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions

    script:
    """
    ${threads(task.cpus)}
    multivi-nf-embed --resources embed.resources.json ${mosaic} ${model} --output=multivi.h5mu --chunks=chunks \\
        ${options(contrasts: contrasts, marker_sets: marker_sets, tss: tss, gtf: gtf)} ${options(settings)}
    """

    stub:
    """
    mkdir chunks
    touch multivi.h5mu chunks/1.txt chunks/2.txt
    echo '{}' > embed.resources.json
    """
}
